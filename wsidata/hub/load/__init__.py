"""Loading of published datasets: download, verification, and readers of images and tables."""
