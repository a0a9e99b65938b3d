"""Names of the splits (train, val, test), and the errors about them."""

from __future__ import annotations

from typing import Literal

Part = Literal["train", "val", "test", "predict"]
"""A split, or the rows to predict on."""

SPLITS = ("train", "val", "test")


class SplitError(ValueError):
    """The requested split cannot be made, or would leak training images; the message says what to change."""


class SplitWarning(UserWarning):
    """A class is missing from a split."""


_ALIASES = {
    **dict.fromkeys(("train", "training", "tr"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev", "tune"), "val"),
    **dict.fromkeys(("test", "testing", "holdout"), "test"),
}


def part_name(name: str) -> str:
    """`train`, `val` or `test` for a synonym such as "Validation"; else ""."""
    return _ALIASES.get(name.strip().lower(), "")
