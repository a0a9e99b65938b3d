"""Names of the splits (train, val, test), and the errors about them."""

from __future__ import annotations

import re
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


_WORDS = {
    *_ALIASES,
    *("trn", "learn", "fit", "vld", "eval", "evaluation", "evaluate", "devel", "tst", "tests"),
}


def part_name(name: str) -> str:
    """`train`, `val` or `test` for a synonym such as "Validation"; else ""."""
    return _ALIASES.get(name.strip().lower(), "")


def may_be_part(name: str) -> bool:
    """Whether a name that `part_name` does not know looks like a split's, such as "trn", "eval" or "train_set".

    It is not guessed which one: "eval" is validation for some, test for others.
    """
    words = [word for word in re.split(r"[^a-z]+", name.lower()) if word not in ("", "set", "data", "images", "split")]
    return not part_name(name) and len(words) == 1 and words[0].removesuffix("set").removesuffix("ing") in _WORDS
