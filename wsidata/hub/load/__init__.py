"""Download, verification and reading of published datasets."""
