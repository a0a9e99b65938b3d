"""Data modules of tiles of slides, and of the features of tiles."""
