"""TODOC wsidata/utils/messages.py."""

from __future__ import annotations

from collections.abc import Collection, Sequence


def check_choice(name: str, value: str, known: Sequence[str]) -> None:
    """Refuse an argument that is none of some words.

    Raises:
        ValueError: with the words.
    """
    if value not in known:
        raise ValueError(f"{name}={value!r} is not one of {', '.join(known)}.")


def name_some(names: Collection[str], limit: int = 5) -> str:
    """A few of many names, for a message."""
    shown = ", ".join(repr(str(name)) for name in list(names)[:limit])
    return shown if len(names) <= limit else f"{shown}, ... ({len(names)} in all)"


def describe_problems(source: str, problems: list[str], remedy: str, limit: int = 20) -> str:
    """One message for many problems: the count, the first `limit` of them a line each, and the remedy."""
    noun = "problem" if len(problems) == 1 else "problems"
    shown = "".join(f"\n  - {problem}" for problem in problems[:limit])
    more = f"\n  ... and {len(problems) - limit} more" if len(problems) > limit else ""
    return f"'{source}' has {len(problems)} {noun}:{shown}{more}\n{remedy}"
