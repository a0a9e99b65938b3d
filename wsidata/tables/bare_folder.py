"""Images of a folder without a table and without classes, at any depth, each slide once.

A slide may be several files: what an MRXS, VMS or VMU keeps beside itself, the chunks of an OME-Zarr and the other
files of a DICOM series are no slides of their own.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import pandas as pd
from lightning.pytorch.utilities import rank_zero_warn

from wsidata.tables.class_folders import PassedOverWarning, files_below, is_document
from wsidata.tables.find_slides import ImageFolder
from wsidata.tables.text_table import TableError, TextTable
from wsidata.utils.messages import name_some

_REMEDY = "Take copies and previews away, or pass the files that are meant by name."
_LISTING = (".vms", ".vmu")
_LISTED = re.compile(r"=\s*(\S.*?)\s*$", re.MULTILINE)
_HEADER_BYTES = 1 << 20
_LONG = {b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"}
_SERIES, _ITEM, _END_OF_ITEM, _END_OF_SEQUENCE = (0x20, 0x0E), (0xFFFE, 0xE000), (0xFFFE, 0xE00D), (0xFFFE, 0xE0DD)
_UNDEFINED = 0xFFFFFFFF


def read_bare_folder(root: str | Path, image_column: str, folder: ImageFolder) -> TextTable:
    """A table with a row for each image in a folder and all folders below it.

    Hidden files and documents (tables, texts, scripts, sidecars) are passed over.

    Args:
        root: The folder.
        image_column: Name of the column of paths below `root`.
        folder: Knows an image by its name.

    Raises:
        TableError: if there is no image.

    Warns:
        PassedOverWarning: naming files that are neither images nor documents by their names.
    """
    root = Path(root)
    names = list_images(root, folder.is_image_name, folder.noun)
    frame = pd.DataFrame({image_column: names}, dtype=object)
    return TextTable(frame, str(root), tuple(names), remedy=_REMEDY)


def list_images(root: Path, is_image_name: Callable[[str], bool], noun: str) -> list[str]:
    """Relative paths of the images below a folder; see `read_bare_folder`."""
    files = files_below(root)
    images = [name for name in files if is_image_name(name)]
    if not images:
        found = f"; it has {len(files)} other files: {name_some(files, 3)}" if files else ""
        raise TableError(f"'{root}' holds no {noun}s, at any depth{found}. Check the folder.")
    odd = [name for name in files if not is_document(name) and not is_image_name(name)]
    companions = _listed_by_slides(root, images)
    if odd := [name for name in odd if name not in companions]:
        rank_zero_warn(
            f"{len(odd)} files in '{root}' are no {noun}s by their names, and are passed over: {name_some(odd)}.",
            category=PassedOverWarning,
            stacklevel=2,
        )
    return _one_of_each_series(root, sorted(name for name in images if name not in companions))


def _listed_by_slides(root: Path, images: list[str]) -> set[str]:
    """Files that VMS and VMU slides name as their parts."""
    listed: set[str] = set()
    for name in images:
        if name.lower().endswith(_LISTING):
            text = (root / name).read_text(encoding="utf-8", errors="replace")
            above = PurePosixPath(name).parent
            listed |= {(above / part).as_posix() for part in _LISTED.findall(text)}
    return listed


def _one_of_each_series(root: Path, images: list[str]) -> list[str]:
    """The images, of the DICOM files of a folder only the first of each series."""
    seen: set[tuple[str, str]] = set()
    kept: list[str] = []
    for name in images:
        series = dicom_series(root / name) if name.lower().endswith(".dcm") else None
        if series is not None:
            key = PurePosixPath(name).parent.as_posix(), series
            if key in seen:
                continue
            seen.add(key)
        kept.append(name)
    return kept


def dicom_series(path: Path) -> str | None:
    """Series Instance UID (0020,000E) of a DICOM file in explicit little endian, as slides are; None if not found.

    Layout: DICOM PS3.5 (data elements), PS3.10 (preamble).
    """
    try:
        with path.open("rb") as file:
            data = file.read(_HEADER_BYTES)
    except OSError:
        return None
    if data[128:132] != b"DICM":
        return None
    at, depth = 132, 0
    while at + 8 <= len(data):
        tag = struct.unpack_from("<HH", data, at)
        if tag in (_ITEM, _END_OF_ITEM, _END_OF_SEQUENCE):
            depth -= tag == _END_OF_SEQUENCE
            at += 8
            continue
        kind = data[at + 4 : at + 6]
        if kind in _LONG:
            if at + 12 > len(data):
                return None
            (length,), start = struct.unpack_from("<I", data, at + 8), at + 12
        else:
            (length,), start = struct.unpack_from("<H", data, at + 6), at + 8
        if length == _UNDEFINED:
            depth += 1
            at = start
            continue
        if tag == _SERIES and not depth:
            return data[start : start + length].decode("ascii", "replace").strip("\0 ")
        at = start + length
    return None
