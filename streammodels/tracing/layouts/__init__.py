"""Translation of values whose dimensions are split, flattened or moved."""
