"""Leak checks, for patients, files, near-duplicates and sites shared between splits."""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from wsidata.jobs.pools import outcomes, refuse_forks
from wsidata.remote.address import shown
from wsidata.splits.near_duplicates import PerceptualHash, perceptual_hash, same_bytes, similar_pairs, slide_thumbnail
from wsidata.tables.parts import SPLITS, SplitError
from wsidata.utils.messages import bullets, check_choice, name_some
from wsidata.utils.processes import raise_system_fault

LeakKind = Literal["patient", "content", "thumbnail", "site"]
LEAK_KINDS: tuple[LeakKind, ...] = ("patient", "content", "thumbnail", "site")
Progress = Callable[[int, int], None]

_SHOWN = 10
_SAYS = {
    "patient": "patient {what} is in",
    "content": "the same file ({what}) is in",
    "thumbnail": "images that look alike ({what}) are in",
    "site": "site {what} is in",
}


class LeakError(SplitError):
    """Splits share patients, files, near-duplicates or sites; the message names them."""


class LeakWarning(UserWarning):
    """The same, as a warning; or images that could not be compared."""


@dataclass(frozen=True)
class Leak:
    """A patient, file, pair of near-duplicates or site in several splits.

    Attributes:
        kind: "patient", "content", "thumbnail" or "site".
        what: Name of the patient or site, or similarity of the images.
        members: `(image_id, split)` of every image concerned.
    """

    kind: LeakKind
    what: str
    members: tuple[tuple[str, str], ...]

    def __str__(self) -> str:
        parts = {part: [name for name, of in self.members if of == part] for part in SPLITS}
        where = " and ".join(f"{part} ({name_some(names, 3)})" for part, names in parts.items() if names)
        return f"{_SAYS[self.kind].format(what=self.what)} {where}"


@dataclass(frozen=True)
class LeakReport:
    """Result of a leak check; true if there are leaks.

    Attributes:
        leaks: The leaks, by kind.
        checked: Kinds that were checked.
        unread: Images without a perceptual hash, with the reason; plain ones have none, as all of them look alike.
    """

    leaks: tuple[Leak, ...]
    checked: tuple[LeakKind, ...]
    unread: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.leaks)

    def __str__(self) -> str:
        checked = f"checked: {', '.join(self.checked) or 'nothing'}"
        unread = (
            f"\n{len(self.unread)} images were not compared as near-duplicates: {name_some(self.unread, 3)}"
            if self.unread
            else ""
        )
        if not self.leaks:
            return f"no leakage between splits ({checked}){unread}"
        return f"{len(self.leaks)} leaks between splits ({checked}):{bullets(self.leaks, _SHOWN)}{unread}"

    @property
    def frame(self) -> pd.DataFrame:
        """One row per image of each leak: `leak` (number), `kind`, `what`, `image_id`, `split`."""
        rows = [(i, leak.kind, leak.what, *member) for i, leak in enumerate(self.leaks) for member in leak.members]
        return pd.DataFrame(rows, columns=["leak", "kind", "what", "image_id", "split"])

    def report(self, action: Literal["warn", "error"]) -> None:
        """Warn or raise, if there are leaks.

        Raises:
            LeakError: naming them, for "error".

        Warns:
            LeakWarning: naming them, for "warn"; or the images that could not be compared.
        """
        if not self.leaks:
            if self.unread:
                warnings.warn(str(self), LeakWarning, stacklevel=3)
            return
        remedy = (
            "Group by patient (group_column=), remove copies, or predefine the split; leave a check out with "
            "leak_checks=."
        )
        if action == "error":
            raise LeakError(f"{self}\n{remedy}")
        warnings.warn(f"{self}\n{remedy}", LeakWarning, stacklevel=3)


def check_leaks(
    table: pd.DataFrame,
    *,
    checks: Sequence[LeakKind] | None = None,
    thumbnail: Callable[[str], NDArray[np.float64]] = slide_thumbnail,
    executor: Executor | None = None,
    progress: Progress | None = None,
) -> LeakReport:
    """Find patients, files, near-duplicates and sites that are in several splits.

    Args:
        table: Columns `image_id`, `split`, and those the checks need: `group` (patients), `site`, `path`. See
            `label_table.COLUMNS`; rows without a split are left out.
        checks: "patient": slides of one patient in two splits. "content": the same file twice. "thumbnail":
            near-duplicates, also saved again, resized, rotated by right angles, or cropped by a few percent. "site":
            slides of one site in two splits. None: all that the table's columns allow.
        thumbnail: Makes (32, 32) gray pixels of a path, for other files than slides. The default reads the smallest
            level only.
        executor: Where thumbnails are made; see `channel_stats`. None: in this thread.
        progress: Called with the number of thumbnails made, and of all of them.

    Returns:
        The report; true if there are leaks.

    Raises:
        SplitError: if a check is unknown, or the table lacks what it needs.
        PoolError: if the executor ends.
    """
    refuse_forks(executor)
    table = table[table["split"].isin(SPLITS)].reset_index(drop=True)
    chosen = _chosen(table, checks)
    leaks: list[Leak] = []
    unread: list[str] = []
    if "patient" in chosen:
        leaks += _shared(table, "group", "patient")
    if "content" in chosen:
        leaks += _copies(table)
    if "thumbnail" in chosen:
        copies = defaultdict(set)
        for number, leak in enumerate(leaks):
            for member in leak.members if leak.kind == "content" else ():
                copies[member].add(number)
        hashes = _perceptual_hashes(table["path"].tolist(), thumbnail, executor, progress, unread)
        pairs = _near_duplicates(table, hashes)  # without those that are the same file
        leaks += [leak for leak in pairs if not set.intersection(*(copies[member] for member in leak.members))]
    if "site" in chosen:
        leaks += _shared(table, "site", "site")
    return LeakReport(tuple(leaks), chosen, tuple(unread))


def _chosen(table: pd.DataFrame, checks: Sequence[LeakKind] | None) -> tuple[LeakKind, ...]:
    """The requested checks; of None, those that the columns allow."""
    needs = {"patient": "group", "content": "path", "thumbnail": "path", "site": "site"}
    able = [kind for kind in LEAK_KINDS if needs[kind] in table.columns and (table[needs[kind]] != "").any()]
    if checks is None:
        return tuple(able)
    for kind in checks:
        check_choice("checks", kind, LEAK_KINDS, SplitError)
    unable = [kind for kind in checks if kind not in able]
    if unable:
        columns = ", ".join(f"{kind} needs '{needs[kind]}'" for kind in unable)
        raise SplitError(f"the table lacks columns, or they are empty: {columns}. Pass group_column= or site_column=.")
    return tuple(kind for kind in LEAK_KINDS if kind in checks)


def _members(rows: pd.DataFrame) -> tuple[tuple[str, str], ...]:
    return tuple((str(name), str(part)) for name, part in zip(rows["image_id"], rows["split"], strict=True))


def _shared(table: pd.DataFrame, column: str, kind: LeakKind) -> Iterator[Leak]:
    """Values of a column that are in several splits."""
    splits = table[table[column] != ""].groupby(column)["split"].nunique()
    for value, rows in table[table[column].isin(splits.index[splits > 1])].groupby(column, sort=True):
        yield Leak(kind, repr(str(value)), _members(rows))


def _copies(table: pd.DataFrame) -> Iterator[Leak]:
    """Files with the same content in several splits."""
    rows_of = table.groupby("path").indices
    for paths in same_bytes(table["path"].tolist()):
        rows = table.iloc[np.sort(np.concatenate([rows_of[path] for path in paths]))]
        if rows["split"].nunique() > 1:
            yield Leak("content", "equal bytes", _members(rows))


def _perceptual_hashes(
    paths: list[str],
    thumbnail: Callable[[str], NDArray[np.float64]],
    executor: Executor | None,
    progress: Progress | None,
    unread: list[str],
) -> list[PerceptualHash | None]:
    """The perceptual hash of each file; those without one are added to `unread`."""
    made: list[NDArray[np.float64] | str] = [""] * len(paths)
    find = partial(_thumbnail_or_reason, thumbnail)
    with closing(outcomes(find, enumerate(paths), executor, name=lambda one: one[1])) as found:
        for done, ((row, _), result) in enumerate(found, start=1):
            if isinstance(result, Exception):
                raise result
            made[row] = result
            if progress is not None:
                progress(done, len(paths))
    hashes = [None if isinstance(one, str) else perceptual_hash(one) for one in made]
    for path, one, hashed in zip(paths, made, hashes, strict=True):
        if hashed is None:
            unread.append(f"{shown(path)}: {one if isinstance(one, str) else 'plain'}")
    return hashes


def _thumbnail_or_reason(
    thumbnail: Callable[[str], NDArray[np.float64]], numbered: tuple[int, str]
) -> NDArray[np.float64] | str:
    """A thumbnail, or why there is none, so that the other files are still checked."""
    try:
        return thumbnail(numbered[1])
    except Exception as error:  # of any reader; the report has the reason
        raise_system_fault(error, numbered[1])
        return f"{type(error).__name__}: {error}"


def _near_duplicates(table: pd.DataFrame, hashes: list[PerceptualHash | None]) -> Iterator[Leak]:
    """Pairs of near-duplicates in different splits."""
    rows = {part: [int(i) for i in np.flatnonzero(table["split"] == part) if hashes[i] is not None] for part in SPLITS}
    for first, second in combinations(SPLITS, 2):
        ours, theirs = ([hashed for i in rows[part] if (hashed := hashes[i]) is not None] for part in (first, second))
        for i, j, correlation in similar_pairs(ours, theirs):
            pair = table.iloc[[rows[first][i], rows[second][j]]]
            yield Leak("thumbnail", f"correlation {correlation:.2f}", _members(pair))
