"""A split that was preprocessed once, as a folder or a Hub repository that anybody trains from.

`layout` says what such a folder looks like, `export` writes it, `publish` uploads it.
"""
