"""Geometric transforms: crops, flips, rotations, affine and elastic maps, dropout."""
