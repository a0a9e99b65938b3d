"""Image codecs: JPEG, BMP, color spaces and ICC profiles."""
