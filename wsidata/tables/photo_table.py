"""Label tables of photos, read from a table, class folders or a bare folder, and checked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from lightning.pytorch.utilities import rank_zero_warn

from wsidata.tables.bare_folder import list_images
from wsidata.tables.find_photos import NameIndex, PhotoFolder
from wsidata.tables.label_table import LabelTable, image_root, read_table
from wsidata.tables.parts import SplitError
from wsidata.utils.messages import name_some

Unlisted = Literal["off", "warn", "error"]


class UnlistedWarning(UserWarning):
    """Photos in the folder are in no row of the table; the message names them."""


def read_photo_table(
    table: str | Path | pd.DataFrame,
    image_dir: str | Path | None = None,
    *,
    inspect: Callable[[Sequence[Path]], Sequence[str]] | None = None,
    image_column: str = "image",
    label_column: str | Sequence[str] | None = "class",
    unlisted: Unlisted = "warn",
    **options: Any,
) -> LabelTable:
    """Read and check a table of photos; for the arguments see `ImageFolderDataModule` and `read_table`.

    `image_id` is the path without suffix, or with it where two photos differ only by it.

    Raises:
        TableError: naming every problem of the table and of the files.

    Warns:
        UnlistedWarning: naming photos that no row names.
    """
    root = image_root(table, image_dir)
    is_folder = not isinstance(table, pd.DataFrame) and Path(table).is_dir()
    if is_folder and label_column is None:
        names = list_images(root, PhotoFolder.is_image_name, PhotoFolder.noun)
        table, image_dir = pd.DataFrame({image_column: names}, dtype=object), root
    listed: dict[Path, PhotoFolder] = {}  # each folder once

    def folder_at(path: Path) -> PhotoFolder:
        return listed.setdefault(path, PhotoFolder(path))

    folder = None if is_folder or unlisted == "off" else folder_at(root)

    def problems_of(paths: Sequence[Path]) -> list[str]:
        unnamed = _unnamed(folder, paths) if folder is not None and unlisted == "error" else []
        return [*(inspect(paths) if inspect else ()), *(f"{name}: is in no row (unlisted='error')" for name in unnamed)]

    labels = read_table(
        table,
        image_dir,
        image_column=image_column,
        label_column=label_column,
        folder_type=folder_at,
        inspect=problems_of if inspect is not None or unlisted == "error" else None,
        **options,
    )
    if folder is not None and (unnamed := _unnamed(folder, labels.frame["path"].tolist())):
        rank_zero_warn(
            f"{len(unnamed)} photos in '{root}' are in no row of '{labels.source}': {name_some(unnamed)}. They are "
            "left out. Add rows for them, or pass unlisted='off'.",
            category=UnlistedWarning,
            stacklevel=2,
        )
    return labels


def _unnamed(folder: PhotoFolder, paths: Sequence[str | Path]) -> list[str]:
    """Photos that are not among `paths`."""
    named = set(map(str, paths))
    return [name for name in folder.photos if folder.path_of(name) not in named]


def match_ids(names: Sequence[str] | None, frame: pd.DataFrame, argument: str) -> list[str] | None:
    """Ids of photos (columns `image_id` and `path`) by loosely written names, as in a table.

    A name that fits nothing stays as it is; one that fits several photos is an error, which names the `argument`.
    """
    if names is None:
        return None
    ids = dict(zip(frame["path"], frame["image_id"], strict=True))
    known, index = set(frame["image_id"]), NameIndex(ids)
    found: list[str] = []
    for name in (str(name).strip() for name in names):
        fitting = [] if name in known else index.fitting(name)
        if len(fitting) > 1:
            raise SplitError(
                f"{argument}: '{name}' fits {name_some([ids[path] for path in fitting])}. Write the whole id."
            )
        found.append(ids[fitting[0]] if fitting else name)
    return found
