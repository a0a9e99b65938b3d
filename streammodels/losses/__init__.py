"""Losses and confusion counts of a map of scores against a map of targets, computed strip by strip."""
