"""Copies of slides and photos on a local disk, made before they are read."""
