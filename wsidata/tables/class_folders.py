"""Label tables of folders with a folder of images per class.

    root/<class>/image.jpg                 root/<split>/<class>/image.jpg   with splits train, val, test

A file that is no image by its name is reported, so that no kind of file is left out silently: a document or sidecar by
a warning, another by an error.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path, PurePosixPath

import pandas as pd
from lightning.pytorch.utilities import rank_zero_warn

from wsidata.tables.find_slides import ImageFolder
from wsidata.tables.parts import may_be_part, part_name
from wsidata.tables.text_table import TableError, TextTable
from wsidata.utils.files import list_files
from wsidata.utils.messages import describe_problems, name_some

_NEVER_IMAGES = {"thumbs.db", "desktop.ini", "readme", "license", "copying", "checksums"}
_REMEDY = "Put each image into the folder of its class, take other files away, or write a table."
_DOCUMENTS = {
    *(".csv", ".tsv", ".xls", ".xlsx", ".ods", ".parquet", ".json", ".jsonl", ".geojson", ".yaml", ".yml", ".xml"),
    *(".txt", ".md", ".rst", ".rtf", ".html", ".htm", ".pdf", ".doc", ".docx", ".odt", ".py", ".ipynb", ".log"),
    *(".xmp", ".aae", ".md5", ".sha1", ".sha256", ".url", ".lnk", ".db", ".ini"),
}
"""Suffixes of files that are no images, and beside them without being meant as such."""


class PassedOverWarning(UserWarning):
    """Files in class folders are no images and are passed over; the message names them."""


def read_class_folders(root: str | Path, is_image_name: Callable[[str], bool] = ImageFolder.is_image_name) -> TextTable:
    """A table with the columns `image` (path below `root`), `class`, and `split` if the first folders are splits.

    Hidden files, the folders beside MRXS slides, and tables, texts, scripts and other documents are left out.

    Args:
        root: The folder.
        is_image_name: Whether a file is an image by its name.

    Returns:
        The table, sorted by path; places are the paths. Its problems name files that lie in no class folder or are no
        images, class folders without images, folders of splits beside folders of classes, and folders that are splits
        by names such as "eval" or "trn".

    Raises:
        TableError: if there is no image in any class folder.

    Warns:
        PassedOverWarning: naming documents and sidecars in class folders.
    """
    root = Path(root)
    folders = _folders(root)
    parts = [folder for folder in folders if part_name(folder.name)]
    problems = _strays(root, root)
    asked = [folder for folder in folders if may_be_part(folder.name)]
    if asked and (len(parts) + len(asked) == len(folders) or any(not _files(folder) for folder in asked)):
        names = ", ".join(folder.name for folder in asked)
        problems.append(f"{names}: looks like a split, not a class; name it train, val or test, or give a table")
    elif parts and len(parts) < len(folders):
        beside = ", ".join(folder.name for folder in folders if folder not in parts)
        problems.append(f"{parts[0].name}: is a split, and beside it are other folders: {beside}")
    if not parts and len(folders) == 1 and _folders(folders[0]) and not _files(folders[0]):
        problems.append(
            f"{folders[0].name}: is the only folder, and holds folders and no images; pass this one instead"
        )
    rows: list[tuple[str, str, str]] = []
    odd: list[str] = []
    passed_over: list[str] = []
    for part in parts or [root]:
        problems += _strays(part, root) if part != root else []
        for folder in _folders(part):
            place = folder.relative_to(root).as_posix()
            files = [f"{place}/{name}" for name in files_below(folder)]
            images = [name for name in files if is_image_name(name)]
            documents = [name for name in files if not is_image_name(name) and is_document(name)]
            others = sorted(set(files).difference(images, documents))
            passed_over += [name for name in documents if not name.lower().endswith((".db", ".ini"))]
            problems += [] if images or others else [f"{place}: holds no image"]
            odd += [f"{name}: no image file by its name" for name in others]
            split = part_name(part.name) if parts else ""
            rows += [(name, folder.name, split) for name in images]
    problems += odd
    if not rows:
        raise TableError(describe_problems(str(root), problems or ["no class folders"], _REMEDY))
    if passed_over and not problems:
        rank_zero_warn(
            f"{len(passed_over)} files in the class folders of '{root}' are no images by their names, and are passed "
            f"over: {name_some(passed_over)}.",
            category=PassedOverWarning,
            stacklevel=2,
        )
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
    return [f"{path.relative_to(root)}: lies in no class folder" for path in _files(folder)]


def _files(folder: Path) -> list[Path]:
    """Images, or files that may be meant as one, in a folder; a Zarr folder is one image."""
    entries = [entry for entry in sorted(folder.iterdir()) if not entry.name.startswith(".")]
    return [entry for entry in entries if (_is_zarr(entry.name) or not entry.is_dir()) and not is_document(entry.name)]


def files_below(folder: Path) -> list[str]:
    """Relative paths of all files at any depth, without those beside MRXS slides; a Zarr folder is one."""
    files = list_files(folder, skip=lambda name: name.startswith((".", "__MACOSX")), whole=_is_zarr)
    mirax = tuple(f"{name[: -len('.mrxs')]}/" for name in files if name.lower().endswith(".mrxs"))
    return [name for name in files if not name.startswith(mirax)] if mirax else files


def _is_zarr(name: str) -> bool:
    return name.lower().endswith(".zarr")


def is_document(name: str) -> bool:
    """Whether a file is a table, text, script or sidecar by its name, which lie beside images."""
    path = PurePosixPath(name.lower())
    return path.suffix in _DOCUMENTS or path.name in _NEVER_IMAGES or path.stem in _NEVER_IMAGES
