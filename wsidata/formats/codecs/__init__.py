"""Codecs for JPEG and BMP, conversion of colors and ICC profiles."""
