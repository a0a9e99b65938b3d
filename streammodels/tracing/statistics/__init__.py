"""Translation of layers that use statistics of whole maps."""
