"""Label tables of folders with a folder of images per class.

    root/<class>/image.jpg                 root/<split>/<class>/image.jpg   with splits train, val, test

A file that is no image by its name is reported, so that no unknown kind of file is left out silently.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd

from wsidata.tables.find_slides import ImageFolder
from wsidata.tables.parts import part_name
from wsidata.tables.text_table import TableError, TextTable
from wsidata.utils.messages import describe_problems

_NEVER_IMAGES = {"thumbs.db", "desktop.ini", "readme.md", "readme.txt", "license", "license.txt"}
_REMEDY = "Put each image into the folder of its class, take other files away, or write a table."
_DOCUMENTS = {
    *(".csv", ".tsv", ".xlsx", ".parquet", ".json", ".yaml", ".yml", ".xml"),
    *(".txt", ".md", ".html", ".pdf", ".py", ".ipynb"),
}


def read_class_folders(root: str | Path, is_image_name: Callable[[str], bool] = ImageFolder.is_image_name) -> TextTable:
    """A table with the columns `image` (path below `root`), `class`, and `split` if the first folders are splits.

    Hidden files, readme and license files, the folders beside MRXS slides, and tables, texts and scripts beside the
    class folders are left out.

    Args:
        root: The folder.
        is_image_name: Whether a file is an image by its name.

    Returns:
        The table, sorted by path; places are the paths. Its problems name files that lie in no class folder or are no
        images, class folders without images, and folders of splits beside folders of classes.

    Raises:
        TableError: if there is no image in any class folder.
    """
    root = Path(root)
    folders = _folders(root)
    parts = [folder for folder in folders if part_name(folder.name)]
    problems = _strays(root, root)
    if parts and len(parts) < len(folders):
        others = ", ".join(folder.name for folder in folders if folder not in parts)
        problems.append(f"{parts[0].name}: is a split, and beside it are other folders: {others}")
    if not parts and len(folders) == 1 and _folders(folders[0]) and not _files(folders[0]):
        problems.append(
            f"{folders[0].name}: is the only folder, and holds folders and no images; pass this one instead"
        )
    rows: list[tuple[str, str, str]] = []
    for part in parts or [root]:
        problems += _strays(part, root) if part != root else []
        for folder in _folders(part):
            files = _files(folder, deep=True)
            problems += [] if files else [f"{folder.relative_to(root)}: holds no image"]
            split = part_name(part.name) if parts else ""
            rows += [(file.relative_to(root).as_posix(), folder.name, split) for file in files]
    problems += [f"{name}: no image file by its name" for name, _, _ in rows if not is_image_name(name)]
    rows = [row for row in rows if is_image_name(row[0])]
    if not rows:
        raise TableError(describe_problems(str(root), problems or ["no class folders"], _REMEDY))
    frame = pd.DataFrame(rows, columns=["image", "class", "split"], dtype=object)
    return TextTable(
        frame if parts else frame.drop(columns="split"),
        str(root),
        tuple(name for name, _, _ in rows),
        problems=tuple(problems),
        remedy=_REMEDY,
    )


def _folders(folder: Path) -> list[Path]:
    """Folders in a folder that are not hidden."""
    return [path for path in sorted(folder.iterdir()) if path.is_dir() and not path.name.startswith((".", "__MACOSX"))]


def _strays(folder: Path, root: Path) -> list[str]:
    """A problem for each file that may be an image and lies beside the class folders."""
    files = [path for path in _files(folder) if path.suffix.lower() not in _DOCUMENTS]
    return [f"{path.relative_to(root)}: lies in no class folder" for path in files]


def _files(folder: Path, *, deep: bool = False) -> list[Path]:
    """Images (or files that may be meant as one) in a folder, and below it if `deep`; a Zarr folder is one image."""
    entries = [entry for entry in sorted(folder.iterdir()) if not entry.name.startswith(".")]
    mirax = {entry.stem for entry in entries if entry.suffix.lower() == ".mrxs"}
    found: list[Path] = []
    for entry in entries:
        if entry.is_dir() and entry.suffix.lower() != ".zarr":
            found += _files(entry, deep=True) if deep and entry.name not in mirax else []
        elif entry.name.lower() not in _NEVER_IMAGES:
            found.append(entry)
    return found
