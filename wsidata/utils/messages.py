"""Parts of error messages that many modules share."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Collection, Sequence
from typing import TextIO


def check_choice(
    name: str, value: object, known: Sequence[object], error: type[Exception] = ValueError, advice: str = ""
) -> None:
    """Raise an error for an argument that is none of its known values.

    Args:
        name: The argument.
        value: What was passed.
        known: The values it may have.
        error: Class of the error.
        advice: A sentence to add to the message.
    """
    if value not in known:
        raise error(f"{name}={value!r} is not one of {', '.join(map(str, known))}.{advice and f' {advice}'}")


def show_warnings_in_lines(say: Callable[[str], str] = str) -> None:
    """Print warnings from here on in one line each on standard error, without their place in the source.

    Args:
        say: Returns the text of a warning as it is to be printed.
    """

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        print(f"warning: {say(str(message))}", file=sys.stderr)

    warnings.showwarning = show


def name_some(names: Collection[str], limit: int = 5) -> str:
    """The first few of many names, quoted, for a message."""
    shown = ", ".join(repr(str(name)) for name in list(names)[:limit])
    return shown if len(names) <= limit else f"{shown}, ... ({len(names)} in all)"


def describe_problems(source: str, problems: list[str], remedy: str, limit: int = 20) -> str:
    """One message for many problems: their count, the first `limit` of them one per line, and the remedy."""
    noun = "problem" if len(problems) == 1 else "problems"
    return f"'{source}' has {len(problems)} {noun}:{bullets(problems, limit)}\n{remedy}"


def bullets(lines: Sequence[object], limit: int) -> str:
    """The first `limit` lines as a list, and how many follow."""
    more = [f"\n  ... and {len(lines) - limit} more"] if len(lines) > limit else []
    return "".join([*(f"\n  - {line}" for line in lines[:limit]), *more])
