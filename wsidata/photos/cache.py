"""Cache of decoded photos, in memory or on disk.

Entries are keyed by the content of the file, never by its name or date: a changed photo, or another one of the same
name, is decoded. That costs reading and hashing the file, 1 ms for 1 MB, where decoding costs 20. The key also covers
what else the pixels depend on: the size, whether profiles were applied, and the versions of the decoders.
"""

from __future__ import annotations

import hashlib
import warnings
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any

import cv2
import imagecodecs
import numpy as np
import PIL
import pyvips
import simplejpeg
import torch
from numpy.typing import NDArray

from wsidata.photos.read import decode_photo, photo_bytes
from wsidata.utils.files import atomic_write

FORMAT = 1
"""Version of the pixels, to be incremented whenever decoding gives different ones."""


class DecodedCache:
    """Thread-safe cache of decoded photos, in memory or in a folder.

    In memory, each process (each DataLoader worker, too) has a cache of its own, which is filled until it is full;
    nothing is evicted, because every epoch reads every photo once. Pickling leaves the photos out.

    A folder may be shared by any number of processes, and be deleted at any time. Files are written under a temporary
    name first, and have a checksum. It grows without limit: a photo takes 3 bytes per pixel.

    Args:
        where: Bytes of memory, or the path of a folder, which is created when the first photo is stored.
    """

    def __init__(self, where: int | str | Path) -> None:
        if isinstance(where, bool) or (isinstance(where, int) and where < 1):
            raise ValueError(f"DecodedCache({where!r}): pass a number of bytes, at least 1, or the path of a folder.")
        self.folder = None if isinstance(where, int) else Path(where)
        self.max_bytes = where if isinstance(where, int) else 0
        self._empty()

    def get(self, path: str | Path, short_side_px: int | None = None, *, apply_icc: bool = True) -> NDArray[np.uint8]:
        """The pixels of `read_photo`, decoded or cached, (height, width, 3), contiguous and read-only.

        Arguments and errors are those of `read_photo`.
        """
        path = Path(path)
        data = photo_bytes(path)
        key = _key(data, short_side_px, apply_icc)
        file = None if self.folder is None else self.folder / key[:2] / f"{key}.npz"
        pixels = self._kept.get(key) if file is None else _load(file)
        if pixels is None:
            pixels = decode_photo(data, path, short_side_px=short_side_px, apply_icc=apply_icc)
            if file is None:
                self._keep(key, pixels)
            else:
                self._save(file, pixels)
        pixels.flags.writeable = False
        return pixels

    @property
    def nbytes(self) -> int:
        """Bytes cached in memory by this process."""
        return self._bytes

    def _empty(self) -> None:
        self._kept: dict[str, NDArray[np.uint8]] = {}
        self._bytes = 0
        self._lock = Lock()
        self._warned = False

    def _keep(self, key: str, pixels: NDArray[np.uint8]) -> None:
        with self._lock:
            if key not in self._kept and self._bytes + pixels.nbytes <= self.max_bytes:
                self._kept[key] = pixels
                self._bytes += pixels.nbytes

    def _save(self, file: Path, pixels: NDArray[np.uint8]) -> None:
        """Store in the folder. A failure is warned about once, and is otherwise harmless."""
        try:
            with atomic_write(file, sync=False) as unfinished:  # damage by a power cut shows in the checksum
                np.savez(unfinished, pixels=pixels)
        except OSError as error:
            if not self._warned:
                warnings.warn(
                    f"decoded photos cannot be kept in '{self.folder}' ({error}); they are decoded again in every "
                    "epoch. Make room there, or choose another folder.",
                    stacklevel=3,
                )
            self._warned = True

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "max_bytes": self.max_bytes}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._empty()


def _key(data: bytes, short_side_px: int | None, apply_icc: bool) -> str:
    """Hexadecimal digest of everything the decoded pixels depend on."""
    digest = hashlib.blake2b(data, digest_size=20)
    digest.update(f"\0{FORMAT} {short_side_px} {apply_icc} {_made_by()} {len(data)}".encode())
    return digest.hexdigest()


@cache
def _made_by() -> str:
    """Versions of the libraries that decode and resize."""
    libvips = ".".join(str(pyvips.version(part)) for part in range(3))
    return ", ".join([libvips, *(module.__version__ for module in (simplejpeg, imagecodecs, cv2, torch, PIL))])


def _load(file: Path) -> NDArray[np.uint8] | None:
    """The stored pixels; None if there are none, or they are damaged, as the checksum of the archive shows.

    Where a flipped bit makes the archive claim another version or encryption, the reader raises errors of many kinds.
    """
    try:
        with file.open("rb") as stream, np.load(stream) as archive:  # np.load(file) leaves damaged files open
            pixels: NDArray[np.uint8] = archive["pixels"]
    except Exception:  # the photo is decoded anew, whatever happened to the file
        return None
    return pixels if pixels.ndim == 3 and pixels.dtype == np.uint8 else None
