"""Adapters for plain functions and albumentationsxl pipelines."""
