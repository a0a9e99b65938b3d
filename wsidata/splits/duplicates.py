"""Duplicates among the images of a table, found before it is split and kept on one side of the split."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from wsidata.splits.near_duplicates import perceptual_hash, same_bytes, similar_pairs, slide_thumbnail

_SHOWN = 10


def find_duplicates(
    table: pd.DataFrame, thumbnail: Callable[[str], NDArray[np.float64]] = slide_thumbnail
) -> pd.DataFrame:
    """Pairs of equal files and near-duplicates (saved again, resized, turned, cropped by a few percent).

    Args:
        table: Columns `image_id`, `path` and `label_name`.
        thumbnail: Returns the (32, 32) gray pixels of a path; for photos `fingerprints.photo_thumbnail`.

    Returns:
        Columns `first`, `second`, `label_first`, `label_second`, `what`.
    """
    paths = table["path"].tolist()
    row = {path: number for number, path in enumerate(paths)}
    found = {(row[a], row[b]): "the same file" for group in same_bytes(paths) for a, b in combinations(group, 2)}
    hashes = [(number, hashed) for number, path in enumerate(paths) if (hashed := perceptual_hash(thumbnail(path)))]
    compared = [hashed for _, hashed in hashes]
    for i, j, correlation in similar_pairs(compared, compared):
        if i < j:
            found.setdefault((hashes[i][0], hashes[j][0]), f"look alike (correlation {correlation:.2f})")
    names, labels = table["image_id"].tolist(), table["label_name"].tolist()
    rows = [(names[a], names[b], labels[a], labels[b], what) for (a, b), what in sorted(found.items())]
    return pd.DataFrame(rows, columns=["first", "second", "label_first", "label_second", "what"])


def group_duplicates(image_ids: Sequence[str], duplicates: pd.DataFrame) -> list[str]:
    """A group for each image, such that duplicates, and duplicates of duplicates, share one.

    Args:
        image_ids: Names of the images.
        duplicates: See `find_duplicates`.

    Returns:
        The name of one image of its group for each image, for use as `group_column`.
    """
    named = {name: name for name in image_ids}  # by the first of each list
    members = {name: [name] for name in image_ids}  # lists that the images of a group share
    for first, second in duplicates[["first", "second"]].to_numpy():
        ours, theirs = members[first], members[second]
        if ours is not theirs:
            kept = named[ours[0]]
            larger, smaller = (ours, theirs) if len(ours) >= len(theirs) else (theirs, ours)
            larger += smaller  # the smaller one is moved, so that an image is moved seldom
            members.update(dict.fromkeys(smaller, larger))
            named[larger[0]] = kept
    return [named[members[name][0]] for name in image_ids]


def with_duplicates_grouped(table: pd.DataFrame, duplicates: pd.DataFrame) -> pd.DataFrame:
    """The table with groups such that duplicates share one, and so do the images of a group that it has already.

    Args:
        table: Columns `image_id`, and `group`, empty where an image belongs to none.
        duplicates: See `find_duplicates`.
    """
    members = table.loc[table["group"] != "", ["group", "image_id"]]
    first = members.groupby("group")["image_id"].transform("first")
    grouped = pd.DataFrame({"first": first, "second": members["image_id"]})
    pairs = pd.concat([duplicates[["first", "second"]], grouped], ignore_index=True)
    return table.assign(group=group_duplicates(table["image_id"].tolist(), pairs))


def describe_duplicates(duplicates: pd.DataFrame, count: int, unit: str = "images") -> str:
    """The duplicates as text, up to ten pairs, with the labels where they differ.

    Args:
        duplicates: See `find_duplicates`.
        count: Number of images compared.
        unit: What they are called, such as "photos".
    """
    if duplicates.empty:
        return f"Duplicates: none among {count} {unit} (compared by bytes and by perceptual hash)."
    lines = [f"Duplicates: {len(duplicates)} pairs among {count} {unit}:"]
    for first, second, label_first, label_second, what in duplicates.head(_SHOWN).to_numpy():
        other = "" if label_first == label_second else f" - but {label_first} and {label_second}"
        lines.append(f"  {first} and {second}: {what}{other}")
    return "\n".join([*lines, *(["  ..."] if len(duplicates) > _SHOWN else [])])
