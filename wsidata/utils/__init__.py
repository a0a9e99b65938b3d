"""Helpers without a domain, for rectangles, caches, files and messages."""
