"""Random draws in the order of a hash of seed and slide name.

A draw therefore depends on no row order, process, platform or library release, and a slide that is added to a table
moves few others. (Folds of whole groups are the exception: scikit-learn makes them.) `make.py` decides which rows can
be drawn, and what they become.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedGroupKFold

Integers = NDArray[np.int64]

_ATTEMPTS = 200
_AHEAD = 4096


class DrawError(ValueError):
    """The rows cannot be divided as requested; the message says why."""


def hashed_order(names: Sequence[str], key: str) -> Integers:
    """Positions of `names` in the order of the SHA-256 of `key` and name.

    >>> hashed_order(["a", "b", "c"], "42").tolist()
    [1, 2, 0]
    """
    digests = [_digest(key, name) for name in names]
    return np.array(sorted(range(len(names)), key=lambda position: (digests[position], names[position])), np.int64)


def allocate(counts: Sequence[int], size: int) -> list[int]:
    """Divide `size` among classes in proportion to `counts`, at least 1 and at most count - 1 each.

    Largest remainders: each class gets the whole part of its share, and the rest goes to the largest fractions.

    Args:
        counts: Rows of each class, each at least 2.
        size: Between the number of classes and the sum of `counts` less the number of classes.

    >>> allocate([100, 60, 2], 32)
    [19, 12, 1]
    """
    total = sum(counts)
    shares = [Fraction(count * size, total) for count in counts]
    given = [min(max(int(share), 1), count - 1) for share, count in zip(shares, counts, strict=True)]
    while sum(given) != size:
        step = 1 if sum(given) < size else -1
        open_classes = [i for i, count in enumerate(counts) if (given[i] < count - 1 if step > 0 else given[i] > 1)]
        worst = max(open_classes, key=lambda i: (step * (shares[i] - given[i]), counts[i], -i))
        given[worst] += step
    return given


def draw_slides(names: Sequence[str], classes: Integers, fraction: float, key: str) -> Integers:
    """Positions of about `fraction` of the slides, stratified, with each class on both sides.

    `classes` are all 0 for a draw that ignores them; `key` holds seed and purpose.
    """
    found, counts = np.unique(classes, return_counts=True)
    size = max(int(len(names) * fraction + 0.5), len(found))
    if counts.min() < 2 or len(names) - size < len(found):
        raise DrawError(f"{len(names)} images of {len(found)} classes cannot give {size} and keep one of each class")
    order = hashed_order(names, key)
    shares = zip(found, allocate(counts.tolist(), size), strict=True)
    return np.sort(np.concatenate([order[classes[order] == number][:share] for number, share in shares]))


def fold_slides(names: Sequence[str], classes: Integers, folds: int, key: str) -> Integers:
    """Fold number 0 .. folds-1 of each slide; sizes, and the counts of each class, differ by one at most."""
    order = hashed_order(names, key)
    order = order[np.argsort(classes[order], kind="stable")]
    fold_of = np.empty(len(names), dtype=np.int64)
    fold_of[order] = np.arange(len(names)) % folds
    return fold_of


def draw_groups(groups: Sequence[str], classes: Integers, fraction: float, key: str) -> Integers:
    """Positions of whole groups with about `fraction` of the rows of every class, each class on both sides.

    First one group of each class, rarest first: the first in hashed order that is no larger than what is to be drawn,
    or the smallest, if none is. Then groups in hashed order, whenever one brings the rows drawn nearer to the share of
    each class, and never the last group of a class.
    """
    group_of, names = pd.factorize(np.asarray(groups, dtype=object), sort=True)
    rows = np.zeros((len(names), int(classes.max()) + 1), dtype=np.int64)
    np.add.at(rows, (group_of, classes), 1)
    order = hashed_order(names.tolist(), key)
    totals, sizes = rows.sum(axis=0), rows.sum(axis=1)
    most = max(1, fraction * int(totals.sum()))
    drawn = np.zeros(len(names), dtype=bool)
    taken = np.zeros_like(totals)  # rows of each class in the groups that are drawn

    def able(candidates: Integers) -> NDArray[np.bool_]:
        return np.asarray(~drawn[candidates] & (taken + rows[candidates] < totals).all(axis=1))

    def distance(counts: Integers) -> NDArray[np.float64]:
        return np.asarray((((counts - fraction * totals) ** 2) / totals).sum(axis=-1))

    for number in np.argsort((rows > 0).sum(axis=0), kind="stable"):
        if not taken[number]:
            candidates = order[rows[order, number] > 0]
            candidates = candidates[able(candidates)]
            if not len(candidates):
                raise DrawError(f"no choice of {len(names)} groups was found that has every class on both sides")
            fitting = candidates[sizes[candidates] <= most]
            group = fitting[0] if len(fitting) else candidates[sizes[candidates].argmin()]
            drawn[group], taken = True, taken + rows[group]
    place, ahead = 0, 1
    while place < len(order):  # most groups of the end are none: more and more of them are looked at together
        candidates = order[place : place + ahead]
        nearer = able(candidates) & (distance(taken + rows[candidates]) < distance(taken))
        first = int(nearer.argmax())
        if nearer[first]:
            drawn[candidates[first]], taken = True, taken + rows[candidates[first]]
        place += first + 1 if nearer[first] else len(candidates)
        ahead = 1 if nearer[first] else min(2 * ahead, _AHEAD)
    return np.flatnonzero(drawn[group_of])


def fold_groups(groups: Sequence[str], classes: Integers, folds: int, key: str) -> Integers:
    """Fold number 0 .. folds-1 of each row; rows of one group share a fold, and every fold has every class."""
    class_count = len(np.unique(classes))
    if len(set(groups)) >= folds <= int(np.bincount(classes).max()):
        for attempt in range(_ATTEMPTS):
            fold_of = _grouped_folds(groups, classes, folds, f"{key}|{attempt}")
            if all(len(np.unique(classes[fold_of == fold])) == class_count for fold in range(folds)):
                return fold_of
    raise DrawError(
        f"no arrangement of {len(set(groups))} groups was found that has every class in each of {folds} folds"
    )


def _grouped_folds(groups: Sequence[str], classes: Integers, folds: int, key: str) -> Integers:
    """Fold number of each row, by scikit-learn's greedy algorithm."""
    seed = int.from_bytes(_digest(key, "groups")[:4], "big")
    splitter = StratifiedGroupKFold(n_splits=folds, shuffle=True, random_state=seed)
    fold_of = np.empty(len(classes), dtype=np.int64)
    with warnings.catch_warnings():  # callers check that small classes are in every fold
        warnings.filterwarnings("ignore", message="The least populated class", category=UserWarning)
        for fold, (_, part) in enumerate(splitter.split(classes, classes, np.asarray(groups, dtype=str))):
            fold_of[part] = fold
    return fold_of


def _digest(key: str, name: str) -> bytes:
    return hashlib.sha256(f"{key}\0{name}".encode()).digest()
