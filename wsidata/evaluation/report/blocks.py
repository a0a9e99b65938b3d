"""Parts of a page, as the template of the report takes them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from wsidata.evaluation.report.drawings import Drawing

DASH = "\N{EN DASH}"


@dataclass(frozen=True)
class Text:
    """A paragraph; `kind` is "plain", "note", "warning", or "code" for text as it is."""

    text: str
    kind: str = "plain"


@dataclass(frozen=True)
class Table:
    """A table whose first column names the rows."""

    caption: str
    headers: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Drawings:
    """Figures beside each other, as many as there is room for."""

    drawings: Sequence[Drawing]


@dataclass(frozen=True)
class Picture:
    """An image of a card: a data URI, or the reason why there is none."""

    uri: str
    alt: str
    reason: str = ""


@dataclass(frozen=True)
class Card:
    """An image with what was true and what was predicted."""

    name: str
    lines: Sequence[str]
    pictures: Sequence[Picture]


@dataclass(frozen=True)
class Cards:
    """Cards beside each other."""

    cards: Sequence[Card]


@dataclass(frozen=True)
class Section:
    """A part of the report with a heading."""

    title: str
    blocks: list[Any] = field(default_factory=list)

    @property
    def anchor(self) -> str:
        """Where links lead."""
        return "".join(letter if letter.isalnum() else "-" for letter in self.title.lower())


def number(value: float) -> str:
    """A number with three places, or with three digits where it is large; a dash where it is undefined."""
    if not math.isfinite(value):
        return DASH
    text = f"{value:.3f}" if abs(value) < 100 else f"{value:,.0f}"
    return text.replace("-", "\N{MINUS SIGN}")


def with_interval(value: float, low: float, high: float) -> str:
    """A score, and its interval where it has one."""
    if not (math.isfinite(low) and math.isfinite(high)):
        return "undefined" if not math.isfinite(value) else number(value)
    return f"{number(value)} ({number(low)} to {number(high)})"


def counted(count: int, noun: str) -> str:
    """A count with its noun, in the singular if it is one."""
    return f"{count:,} {noun.removesuffix('s') if count == 1 else noun}"
