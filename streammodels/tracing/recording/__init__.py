"""Running of a forward on a placeholder, with all calls of layers seen and side effects refused."""
