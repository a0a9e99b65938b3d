"""The words every module about splits shares: the names of the parts, and what can be wrong with them."""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

Part = Literal["train", "val", "test", "predict"]
SPLITS = ("train", "val", "test")
PARTS: tuple[Part, ...] = ("train", "val", "test", "predict")


class SplitError(ValueError):
    """The split asked for cannot be made, or would mix training and test slides; the message says what to change."""


class SplitWarning(UserWarning):
    """The split was made, and a class is missing from a part of it."""


def name_some(names: Collection[str], limit: int = 5) -> str:
    """A few of many names, for a message."""
    shown = ", ".join(repr(str(name)) for name in list(names)[:limit])
    return shown if len(names) <= limit else f"{shown}, ... ({len(names)} in all)"
