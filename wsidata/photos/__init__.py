"""Folders of photos: finding, checking, decoding and batching what cameras and phones write.

Slides are few and enormous, photos many and small: what is slow there is reading, and here it is everything around it.
"""
