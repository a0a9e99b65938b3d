"""Readers of slide and image file formats."""

from wsidata.formats.levels import Level as Level
