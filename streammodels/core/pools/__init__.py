"""Reductions beyond the mean, the maximum and attention."""
