"""The streaming engine, with row arithmetic, operations, carries and reductions."""
