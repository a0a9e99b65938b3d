"""Loading of published data sets: download, verification, and readers of images and tables."""
