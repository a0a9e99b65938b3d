"""Parametrizations that try all pairs of values instead of all combinations."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations, product
from typing import Any


def pairs(*values: Sequence[Any]) -> list[tuple[Any, ...]]:
    """Cases in which any two values of different lists occur together at least once: a covering array of strength 2.

    Faults that take three particular values at once are rare, see Kuhn, Wallace and Gallo 2004,
    https://doi.org/10.1109/TSE.2004.24; the cases are as many as the two longest lists have pairs, or few more.
    """
    missing = {
        ((a, i), (b, j))
        for a, b in combinations(range(len(values)), 2)
        for i, j in product(range(len(values[a])), range(len(values[b])))
    }
    everything = list(product(*(range(len(one)) for one in values)))
    cases = []
    while missing:
        new = [missing.intersection(combinations(enumerate(case), 2)) for case in everything]
        best = max(range(len(everything)), key=lambda number: len(new[number]))  # the first of the best
        missing -= new[best]
        cases.append(everything[best])
    return [tuple(one[index] for one, index in zip(values, case, strict=True)) for case in sorted(cases)]
