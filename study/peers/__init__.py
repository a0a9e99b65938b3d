"""Comparisons with other people's work: lightstream's streaming, and networks trained on ImageNet."""
