"""Files on servers, read by ranges of bytes through fsspec."""
