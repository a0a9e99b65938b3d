"""Writes small MRXS slides: none that is small and free is known, and their layout has traps of its own.

A slide is a file that shows a thumbnail, and a folder beside it: `Slidedat.ini` says what there is, `Index.dat` where
each picture lies, `Data0000.dat` holds them. The canvas is a grid of pictures, most of which were never taken.
https://openslide.org/formats/mirax/
"""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SLIDE_ID = "0123456789ABCDEF0123456789ABCDEF"
VERSION = "01.02"


def write_mrxs(
    path: Path, canvas: NDArray[np.uint8], taken: NDArray[np.bool_], side_px: int, mpp: float = 0.5, levels: int = 2
) -> Path:
    """Write the pictures of a grid that were taken, without overlaps, as PNG.

    Args:
        path: File to write, `.mrxs`.
        canvas: (rows * side_px, columns * side_px, 3).
        taken: (rows, columns) of pictures; both even for two levels.
        side_px: Side of a picture.
        mpp: Spacing.
        levels: 1, or more, each half the size of the one before.
    """
    folder = path.with_suffix("")
    folder.mkdir()
    rows, columns = taken.shape
    data, pages = b"", []
    for level in range(levels):
        step = 2**level
        small = canvas.reshape(canvas.shape[0] // step, step, canvas.shape[1] // step, step, 3).mean(axis=(1, 3))
        page = []
        for y in range(0, rows, step):
            for x in range(0, columns, step):
                if taken[y : y + step, x : x + step].any():
                    top, left = y * side_px // step, x * side_px // step
                    png = _png(small[top : top + side_px, left : left + side_px].round().astype(np.uint8))
                    page.append((y * columns + x, len(data), len(png), 0))
                    data += png
        pages.append(page)
    (folder / "Data0000.dat").write_bytes(data)
    (folder / "Index.dat").write_bytes(_index(pages))
    (folder / "Slidedat.ini").write_text(_slidedat(rows, columns, side_px, mpp, levels))
    Image.fromarray(canvas[:50, :60]).save(path, format="JPEG")  # what a folder view shows
    return path


def _png(pixels: NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG")
    return file.getvalue()


def _index(pages: list[list[tuple[int, int, int, int]]]) -> bytes:
    """Pointers to levels, each pointing to a chain of one page of (picture, offset, bytes, file)."""
    start = len(VERSION) + len(SLIDE_ID)
    roots = start + 8
    heads = roots + 4 * len(pages)
    at = heads + 8 * len(pages)
    pointers, chains, entries = b"", b"", b""
    for number, page in enumerate(pages):
        pointers += struct.pack("<i", heads + 8 * number)
        chains += struct.pack("<ii", 0, at + len(entries))
        entries += struct.pack("<ii", len(page), 0) + b"".join(struct.pack("<4i", *entry) for entry in page)
    return (VERSION + SLIDE_ID).encode() + struct.pack("<ii", roots, roots) + pointers + chains + entries


def _slidedat(rows: int, columns: int, side_px: int, mpp: float, levels: int) -> str:
    sections: dict[str, dict[str, Any]] = {
        "GENERAL": {
            "SLIDE_VERSION": "01.02", "SLIDE_ID": SLIDE_ID, "IMAGENUMBER_X": columns, "IMAGENUMBER_Y": rows,
            "OBJECTIVE_MAGNIFICATION": 20, "CameraImageDivisionsPerSide": 1,
        },
        "HIERARCHICAL": {
            "HIER_COUNT": 1, "NONHIER_COUNT": 0, "INDEXFILE": "Index.dat", "HIER_0_NAME": "Slide zoom level",
            "HIER_0_COUNT": levels, **{f"HIER_0_VAL_{level}_SECTION": f"LEVEL_{level}" for level in range(levels)},
        },
        "DATAFILE": {"FILE_COUNT": 1, "FILE_0": "Data0000.dat"},
    }  # fmt: skip
    for level in range(levels):
        sections[f"LEVEL_{level}"] = {
            "OVERLAP_X": 0, "OVERLAP_Y": 0, "MICROMETER_PER_PIXEL_X": mpp * 2**level,
            "MICROMETER_PER_PIXEL_Y": mpp * 2**level, "IMAGE_FORMAT": "PNG", "IMAGE_FILL_COLOR_BGR": 16777215,
            "DIGITIZER_WIDTH": side_px, "DIGITIZER_HEIGHT": side_px, "IMAGE_CONCAT_FACTOR": 1 if level else 0,
        }  # fmt: skip
    return "\n".join(
        f"[{name}]\n" + "\n".join(f"{key} = {value}" for key, value in entries.items())
        for name, entries in sections.items()
    )
