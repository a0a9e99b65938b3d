"""The streaming engine: row arithmetic, operations, carries and reductions."""
