"""Tissue masks, crops to tissue, and packing of its pieces into a compact image."""
