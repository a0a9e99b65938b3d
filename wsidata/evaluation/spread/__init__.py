"""Predictions by several jobs or processes, in one file."""
