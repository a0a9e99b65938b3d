"""Geometric transforms, such as crops, flips, rotations, affine and elastic maps."""
