"""Tissue: masks, crops to it, and packing of its pieces into a compact image."""
