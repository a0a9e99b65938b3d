"""TODOC streammodels/core/frozen_prefix.py."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Shortcut:
    """How a strip is computed again without the layers in front of everything trained.

    Attributes:
        skipped: Nodes that are left out.
        handed_over: Nodes whose new rows are given instead; they still keep their carries.
        reads_image: Whether a node that runs reads the image.
    """

    skipped: frozenset[int]
    handed_over: frozenset[int]
    reads_image: bool
