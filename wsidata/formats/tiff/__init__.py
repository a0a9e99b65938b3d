"""Directories, levels, tiles, colors and integrity of TIFF files."""
