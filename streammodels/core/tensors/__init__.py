"""Memory of tensors, its format and what is kept in it."""
