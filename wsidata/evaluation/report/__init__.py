"""Report of a training run or of a table of predictions, as one HTML file without network requests."""
