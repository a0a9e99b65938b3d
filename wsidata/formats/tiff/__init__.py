"""TIFF files: directories, levels, tiles, colors and integrity."""
