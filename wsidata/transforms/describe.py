"""Descriptions of transforms and functions by their plain parameters, which tell no paths.

A representation may hold whatever an object was made of: files of reference images, the home folder of who made it. So
numbers and single words are shown, functions by their name, and nothing else.
"""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

_SHOWN_NUMBERS = 16
_DIGITS = 8
_DEPTH = 8


def described(value: Any, *, digests: bool = False, depth: int = 0) -> str:
    """An object as its class with named, plain parameters; whatever else it holds is shown as "...".

    Objects that are not of this package begin with "own.".

    Args:
        value: A transform, a function or a parameter of theirs.
        digests: Add the beginning of a SHA-256 to texts and arrays that are not shown, so that others are told apart.
        depth: How many objects hold this one; below some, "..." stands for all of it.
    """

    def parameters(values: Mapping[str, Any]) -> str:
        return ", ".join(f"{name}={inner(one)}" for name, one in values.items())

    def inner(one: Any) -> str:
        return described(one, digests=digests, depth=depth + 1)

    def hidden(content: bytes) -> str:
        return f"...{hashlib.sha256(content).hexdigest()[:_DIGITS]}" if digests else "..."

    if value is None or isinstance(value, (bool, int, float)):
        return repr(value)
    if depth > _DEPTH:
        return "..."
    if isinstance(value, str):
        return repr(value) if re.fullmatch(r"[A-Za-z0-9_+-]{1,40}", value) else hidden(value.encode(errors="replace"))
    if isinstance(value, (list, tuple)):
        several = ", ".join(map(inner, value))
        return f"[{several}]" if isinstance(value, list) else f"({several}{',' if len(value) == 1 else ''})"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{inner(name)}: {inner(one)}' for name, one in value.items())}}}"
    if isinstance(value, (np.ndarray, np.generic)):
        return inner(value.tolist()) if value.size <= _SHOWN_NUMBERS else hidden(value.tobytes())
    if isinstance(value, functools.partial):
        filled = [*map(inner, value.args), *([parameters(value.keywords)] if value.keywords else [])]
        return f"partial({', '.join([inner(value.func), *filled])})"
    kind = type(value)
    if kind.__module__.partition(".")[0] == "wsidata":
        return f"{kind.__name__}({parameters(getattr(value, '__dict__', {}))})"
    if callable(value) and hasattr(value, "__name__"):
        return str(value.__name__)
    return f"own.{kind.__name__}({parameters(getattr(value, '__dict__', {}))})"
