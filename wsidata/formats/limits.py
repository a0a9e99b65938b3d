"""Limits on what one file may ask for, checked before it is decoded.

A file of a few kilobytes may state a size of terabytes, or a hundred thousand directories. Such files are no slides;
opening one should cost an error message, not the machine. Every limit is far above what scanners and cameras write.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, fields

from wsidata.errors import LimitExceededError
from wsidata.remote.address import SlidePath

PREFIX = "WSIDATA_"


@dataclass(frozen=True)
class Limits:
    """The most that one file may ask for.

    Each limit is changed by an environment variable of its name in capitals after `WSIDATA_`, such as
    `WSIDATA_MAX_PIXELS=2e12`, which reaches the workers of loaders, too. It is read whenever a file is opened.

    Attributes:
        max_pixels: Pixels of an image.
        max_decoded_bytes: Memory (bytes) that is decoded at once: a photo, or a tile, strip or chunk of a slide.
        max_temporary_bytes: Disk space (bytes) of a photo that is decoded into a temporary file.
        max_directories: Directories of a TIFF, and SubIFDs they name, counted each time one is named.
        max_planes: Planes (channels, focal planes, times) that the XML of an OME-TIFF states.
        max_chunks: Chunks of a level of an OME-Zarr.
        max_scans: Scans of a progressive JPEG: each costs as much time as decoding a whole photo.
        max_annotation_bytes: Size of a file of annotations, which is read whole.
    """

    max_pixels: int = 10**12
    max_decoded_bytes: int = 4 * 1024**3
    max_temporary_bytes: int = 32 * 1024**3
    max_directories: int = 5_000
    max_planes: int = 10_000
    max_chunks: int = 10**7
    max_scans: int = 100
    max_annotation_bytes: int = 512 * 1024**2


def limits() -> Limits:
    """The limits that hold now.

    Raises:
        ValueError: if an environment variable of a limit is not a number of at least 1.
    """
    stated = {field.name: _stated(PREFIX + field.name.upper()) for field in fields(Limits)}
    return Limits(**{name: value for name, value in stated.items() if value is not None})


def limit(name: str) -> int:
    """The limit of that name, as it holds now."""
    stated = _stated(PREFIX + name.upper())
    return int(getattr(Limits, name)) if stated is None else stated


def check_limit(name: str, found: int, path: SlidePath | str, what: str) -> None:
    """Check what a file asks for against the limit of that name.

    Args:
        name: Name of the attribute of `Limits`.
        found: What the file asks for.
        path: The file, for the error.
        what: What there is too much of, after "asks for", such as "5,000 planes".

    Raises:
        LimitExceededError: naming the file, the limit, and how to raise it.
    """
    most = limit(name)
    if found > most:
        raise LimitExceededError(
            f"'{path}' asks for {what}, more than {most:,} ({name}). Files can be made to exhaust memory, disk or "
            f"time, so this one is not opened. If you trust it, set the environment variable {PREFIX}{name.upper()}="
            f"{found} before starting Python."
        )


def _stated(variable: str) -> int | None:
    text = os.environ.get(variable)
    if not text:
        return None
    try:
        value = int(float(text))
    except (ValueError, OverflowError):
        value = 0
    if value < 1:
        raise ValueError(f"the environment variable {variable}={text!r} must be a number of at least 1, such as 1e9.")
    return value
