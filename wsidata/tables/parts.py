"""The words every module about splits shares: the names of the parts, and what can be wrong with them."""

from __future__ import annotations

from typing import Literal

Part = Literal["train", "val", "test", "predict"]


SPLITS = ("train", "val", "test")


PARTS: tuple[Part, ...] = ("train", "val", "test", "predict")


class SplitError(ValueError):
    """The split asked for cannot be made, or would mix training and test slides; the message says what to change."""


class SplitWarning(UserWarning):
    """The split was made, and a class is missing from a part of it."""


_ALIASES = {
    **dict.fromkeys(("train", "training", "tr"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev", "tune"), "val"),
    **dict.fromkeys(("test", "testing", "holdout"), "test"),
}


def part_name(name: str) -> str:
    """The part `train`, `val` or `test` for a name that means one of them, such as "Validation"; else ""."""
    return _ALIASES.get(name.strip().lower(), "")
