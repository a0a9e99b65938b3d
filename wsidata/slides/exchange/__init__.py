"""Slides for other programs, behind the interface of OpenSlide."""
