"""Check of photo files before training, by their headers.

Of a thousand photos from the web, a few are empty, cut off or web pages. Each file is opened once: its header must
state a size, and a JPEG, PNG, WebP or GIF must end with its end marker, which a cut-off file lacks. No pixel is
decoded. Damage in the middle of a file shows only on decoding, which `decode=True` adds.
"""

from __future__ import annotations

import mmap
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from wsidata.formats.codecs.jpeg import JPEG_END, JPEG_START, scan_start
from wsidata.formats.limits import limits
from wsidata.photos.read import photo_size, read_photo
from wsidata.photos.resize import size_with_short_side
from wsidata.utils.messages import name_some
from wsidata.utils.processes import raise_system_fault
from wsidata.utils.retries import retried

THREADS = 4
"""Photos opened, or counted, at once."""

RARE = 0.05
"""Largest share of GIFs among photos that is taken for placeholders."""


class PlaceholderWarning(UserWarning):
    """A few files among photos look like the images that web sites show where a photo is missing."""


def warn_of_placeholders(paths: Sequence[str]) -> None:
    """Warn of a few GIFs among photos of other formats: web sites put them where a photo is missing.

    Args:
        paths: The photos, by path; their suffixes are looked at.

    Warns:
        PlaceholderWarning: naming them.
    """
    gifs = [path for path in paths if path.lower().endswith(".gif")]
    if 0 < len(gifs) <= RARE * len(paths):
        warnings.warn(
            f"{len(gifs)} of {len(paths)} photos are GIFs [{name_some(gifs)}], and perhaps placeholders for missing "
            "photos. Look at them, and take such rows out of the table.",
            PlaceholderWarning,
            stacklevel=3,
        )


@dataclass
class PhotoSurvey:
    """Sizes of photos, and reasons why some cannot be read; each file is checked once.

    Attributes:
        resize_px: Length of the shorter side that photos are read at; None: the stored size.
        decode: Decode each photo, too.
        sizes: (height, width), upright and resized, of each readable photo, by path.
        problems: Why each unreadable photo cannot be read, on one line, by path.
    """

    resize_px: int | None = None
    decode: bool = False
    sizes: dict[str, tuple[int, int]] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)

    def look(self, paths: Sequence[Path]) -> list[str]:
        """Check photos that were not checked yet.

        Returns:
            The problems of these photos, in their order.
        """
        known = self.sizes.keys() | self.problems.keys()
        new = [path for path in dict.fromkeys(paths) if str(path) not in known]
        with ThreadPoolExecutor(THREADS) as pool:
            for path, found in zip(new, pool.map(self._inspect, new), strict=True):
                if isinstance(found, str):
                    self.problems[str(path)] = f"{path}: {found}"
                else:
                    self.sizes[str(path)] = found
        return [self.problems[name] for name in dict.fromkeys(map(str, paths)) if name in self.problems]

    def _inspect(self, path: Path) -> tuple[int, int] | str:
        """The size, or the problem."""
        try:
            return retried(partial(self._check, path), path)
        except Exception as error:  # any decoder's own; what it says is listed under the file's name
            raise_system_fault(error, path)
            return f"{type(error).__name__}: {' '.join(str(error).split())}"

    def _check(self, path: Path) -> tuple[int, int] | str:
        if path.stat().st_size == 0:
            return "is empty (0 bytes)"
        size = height, width = photo_size(path)
        if is_cut_off(path):
            return "was cut off: its end marker is missing. Copy it again from its source"
        if self.resize_px is not None:
            size = size_with_short_side(height, width, self.resize_px)
        if 3 * size[0] * size[1] > limits().max_decoded_bytes:
            return _too_large((height, width), size)
        if self.decode:
            read_photo(path, short_side_px=self.resize_px)
        return size


def _too_large(stored: tuple[int, int], read: tuple[int, int]) -> str:
    """The problem of a photo that does not fit in memory."""
    size = f"is {stored[0]} x {stored[1]} px" + ("" if read == stored else f", resized {read[0]} x {read[1]} px")
    gigabytes = f"{3 * read[0] * read[1] / 1e9:.1f} GB in memory, more than {limits().max_decoded_bytes / 1e9:.1f}"
    return f"{size}: {gigabytes}; {'pass a smaller resize_px=' if read == stored else 'crop it'}, or take it out"


def is_cut_off(path: Path) -> bool:
    """Whether a JPEG, PNG, WebP or GIF lacks its end marker; False for other formats.

    Bytes after the end are allowed: phones put videos and depth maps there.
    """
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        if data[:2] == JPEG_START:
            return data.rfind(JPEG_END, scan_start(data)) < 0
        if data[:8] == b"\x89PNG\r\n\x1a\n":
            return data.rfind(b"IEND\xaeB`\x82") < 0
        if data[:4] == b"RIFF":
            return int.from_bytes(data[4:8], "little") + 8 > len(data)
        if data[:4] == b"GIF8":
            return data.rfind(b"\0;", len(data) - 64) < 0
    return False
