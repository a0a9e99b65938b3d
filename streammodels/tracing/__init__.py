"""Tracing of a module into a network of row operations, with `torch.fx`."""
