"""Helpers without a domain: rectangles, caches, files and messages."""
