"""Zarr stores in folders and ZIP archives, and checks of their chunks."""
