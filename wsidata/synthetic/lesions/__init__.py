"""Synthetic slides whose labels rest on lesions of known place and texture."""
