"""From a table, class folders or a bare folder to the checked rows of a photo data set.

Everything that is wrong is said at once: rows without photo, labels without meaning, files that are no photos.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from wsidata.photos.finding import NameIndex, PhotoFolder
from wsidata.photos.headers import PhotoHeader, inspect_photos
from wsidata.split_base import SplitError, name_some
from wsidata.table_files import TableError, describe_problems
from wsidata.tables import LabelTable, image_root, read_table

Unreadable = Literal["error", "leave_out"]
Unlisted = Literal["off", "warn", "error"]


class PhotoWarning(UserWarning):
    """Photos were left out, because they cannot be read or no row names them; the message names them."""


@dataclass
class PhotoInspector:
    """Looks at each file once, and remembers its header.

    Attributes:
        resize_px: Length of the shorter side photos are read at; None: as they are.
        decode: Whether to decode them, too.
        unreadable: "error" reports files that cannot be used, "leave_out" leaves them out.
        headers: What was found, by path.
    """

    resize_px: int | None = None
    decode: bool = False
    unreadable: Unreadable = "error"
    headers: dict[str, PhotoHeader] = field(default_factory=dict)

    def __call__(self, paths: Sequence[Path]) -> list[str]:
        """Look at files.

        Returns:
            A line for each that cannot be used, unless these are left out.
        """
        found = inspect_photos(list(dict.fromkeys(paths)), resize_px=self.resize_px, decode=self.decode)
        self.headers |= {str(header.path): header for header in found}
        return [header.problem for header in found if header.problem] if self.unreadable == "error" else []

    def readable(self, labels: LabelTable) -> LabelTable:
        """The rows whose photos can be used.

        Raises:
            TableError: if there are none.

        Warns:
            PhotoWarning: naming the others.
        """
        problems = [self.headers[path].problem for path in labels.frame["path"]]
        if not any(problems):
            return labels
        said = describe_problems(labels.source, [one for one in problems if one], "These photos are left out.")
        if all(problems):
            raise TableError(said)
        warnings.warn(said, PhotoWarning, stacklevel=2)
        usable = [not problem for problem in problems]
        return replace(labels, frame=labels.frame[usable].reset_index(drop=True))

    def sizes(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Sizes of the photos of a table's rows as they are read: `image_id`, `height_px`, `width_px`."""
        sizes = [self.headers[path].size_px for path in frame["path"]]
        return pd.DataFrame(sizes, columns=["height_px", "width_px"]).assign(image_id=frame["image_id"].tolist())


def read_photo_table(
    table: str | Path | pd.DataFrame,
    image_dir: str | Path | None,
    inspector: PhotoInspector,
    *,
    image_column: str = "image",
    label_column: str | Sequence[str] | None = "class",
    unlisted: Unlisted = "warn",
    **options: Any,
) -> LabelTable:
    """Read and check a table of photos; see `tables.read_table`.

    Args:
        table: CSV, Parquet or DataFrame; a folder with a folder of photos per class (perhaps below folders of parts);
            or, with `label_column=None`, a folder of photos.
        image_dir: Folder in which, or below which, the photos lie. None: the table's own.
        inspector: Looks at the files that are found.
        image_column: Column of names.
        label_column: Column of labels, or columns. None: no labels.
        unlisted: What to do about photos below `image_dir` that no row names: "off" does not look.
        **options: Other arguments of `read_table`.

    Returns:
        The checked table. `image_id` is the path without suffix, or with it where two photos differ by it only.

    Raises:
        TableError: naming every problem of the table and of the files.

    Warns:
        PhotoWarning: naming photos that are left out.
    """
    root = image_root(table, image_dir)
    is_folder = not isinstance(table, pd.DataFrame) and Path(table).is_dir()
    if is_folder and label_column is None:
        names = PhotoFolder(root).photos
        if not names:
            raise TableError(f"'{root}' holds no photos, at any depth. Check table=.")
        table, image_dir = pd.DataFrame({image_column: names}, dtype=object), root
    folder = None if is_folder or unlisted == "off" else PhotoFolder(root)

    def inspect(paths: Sequence[Path]) -> list[str]:
        unnamed = _unnamed(folder, paths) if folder is not None and unlisted == "error" else []
        return inspector(paths) + [f"{name}: is in no row (unlisted='error')" for name in unnamed]

    labels = read_table(
        table,
        image_dir,
        image_column=image_column,
        label_column=label_column,
        folder_type=PhotoFolder,
        inspect=inspect,
        **options,
    )
    if folder is not None and (unnamed := _unnamed(folder, [Path(path) for path in labels.frame["path"]])):
        warnings.warn(
            f"{len(unnamed)} photos in '{root}' are in no row of '{labels.source}': {name_some(unnamed)}. They are "
            "left out. Add rows for them, or pass unlisted='off'.",
            PhotoWarning,
            stacklevel=2,
        )
    return inspector.readable(labels)


def _unnamed(folder: PhotoFolder, paths: Sequence[Path]) -> list[str]:
    """Photos that are not among `paths`."""
    named = {str(path) for path in paths}
    return [name for name in folder.photos if str(folder.root / name) not in named]


def match_ids(names: Sequence[str] | None, frame: pd.DataFrame, argument: str) -> list[str] | None:
    """The ids of photos that are named as loosely as a table may name them.

    Args:
        names: Ids or file names, with or without suffix and folders. None stays None.
        frame: Columns `image_id` and `path`.
        argument: What `names` is called in messages.

    Returns:
        An id for each name; a name that fits nothing stays as it is.

    Raises:
        SplitError: for a name that fits several photos.
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
