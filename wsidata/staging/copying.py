"""Copying a file whole, and as it was from beginning to end."""

from __future__ import annotations

import hashlib
import io
import os
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from stat import S_ISREG
from typing import NamedTuple

import tifffile

from wsidata.errors import UnreadableImageError
from wsidata.formats.open import TIFF_SIGNATURES
from wsidata.formats.openslide import DICOM_AT, DICOM_SIGNATURE
from wsidata.remote.address import Address, SlidePath
from wsidata.remote.source import identity_of, open_file
from wsidata.remote.transport import RemoteIdentity, fetch
from wsidata.utils.retries import read_at, retried

CHUNK_BYTES = 8 * 1024**2
COVERS = {".mrxs", ".vms", ".vmu", ".dcm", ".vsi", ".afi"}
"""Suffixes of files that are a slide only together with others beside them."""
_NAMED_FILE = re.compile(r"""(?:FileName|MetadataFile)\s*=\s*["']([^"']*)""")


class StageWarning(UserWarning):
    """Slides are read from their source, as the local disk they are copied to is full, too small or fails."""


class SourceChangedError(Exception):
    """The file changed while it was copied."""


class CopyStoppedError(Exception):
    """The copy is not needed any more."""


class StageDiskError(Exception):
    """The disk of the copies is full, or fails; the cause says how."""


class Facts(NamedTuple):
    """What a source is recognized by: its length, and the times of the last change of its content and of its status.

    The second time is set by the system, and shows a file that was edited and given its old time back.
    """

    size_bytes: int
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def of(cls, file: SlidePath | int) -> Facts:
        """Those of a path, or of an open file; at an address a number for what its server calls the version."""
        if isinstance(file, Address):
            return cls._of_version(identity_of(file))
        status = os.stat(file)
        return cls(status.st_size, status.st_mtime_ns, status.st_ctime_ns)

    @classmethod
    def _of_version(cls, identity: RemoteIdentity) -> Facts:
        digest = hashlib.sha256(identity.version.encode()).digest()
        return cls(identity.length, int.from_bytes(digest[:7]), 0)  # such that it can be the time of a file

    def is_of(self, copy: os.stat_result) -> bool:
        """Whether a file may be a copy of the source, which keeps the time of its content."""
        return (copy.st_size, copy.st_mtime_ns) == self[:2]


def count_bytes(stated: int | str) -> int:
    """A number of bytes, which may be stated as text, such as "200GB" (of 1000**3) or "64GiB" (of 1024**3).

    Raises:
        ValueError: if it is none, or not positive.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(?:([KMGT]?)(i?)B)?\s*", str(stated), re.IGNORECASE)
    count = 0 if found is None else float(found[1])
    if found is not None and found[2]:
        count *= (1024 if found[3] else 1000) ** (1 + "KMGT".index(found[2].upper()))
    if count < 1:
        raise ValueError(f"stage_max_bytes={stated!r} is no number of bytes. Pass such as '200GB', or 200_000_000_000.")
    return int(count)


def is_one_file(path: SlidePath) -> bool:
    """Whether a slide or photo is one file, which is read alike wherever it lies.

    Not so are folders (OME-Zarr), covers of slides stored beside them (MRXS, VMS, VSI), DICOM, whose series is found in
    the folder, and OME-TIFFs that name other files.
    """
    is_file = not path.is_store if isinstance(path, Address) else S_ISREG(path.stat().st_mode)
    if path.suffix.lower() in COVERS or not is_file:
        return False
    with path.open("rb") if isinstance(path, Path) else open_file(path) as file:
        head = file.read(DICOM_AT + len(DICOM_SIGNATURE))
    if head[DICOM_AT:] == DICOM_SIGNATURE:
        return False
    return head[:4] not in TIFF_SIGNATURES or not _names_others(path)


def _names_others(path: SlidePath) -> bool:
    """Whether the XML of an OME-TIFF names other files; also if it is no TIFF, which is for its reader to say."""
    try:
        file = path if isinstance(path, Path) else io.BufferedReader(open_file(path))
        with tifffile.TiffFile(file) as tiff:
            xml = tiff.ome_metadata or ""
    except Exception:  # tifffile may raise anything on a damaged file
        return True
    return any(name.lower() != path.name.lower() for name in _NAMED_FILE.findall(xml))


def copy_into(descriptor: int, source: SlidePath, facts: Facts, is_over: Callable[[], bool] | None = None) -> None:
    """Copy a file into an open, empty one, and wait until that is on its disk.

    Args:
        descriptor: The open file.
        source: The file to copy.
        facts: Those of the source.
        is_over: Asked now and then whether the copy is not needed any more.

    Raises:
        SourceChangedError: if the source has other facts at the beginning or at the end, or ends early.
        CopyStoppedError: if `is_over` says so.
        StageDiskError: if it cannot be written.
        UnreachableImageError: if the source cannot be read, after retries.
    """
    if isinstance(source, Address):
        _download_into(descriptor, source, facts, is_over)
        return
    with retried(partial(source.open, "rb", buffering=0), source) as file:
        if Facts.of(file.fileno()) != facts:
            raise SourceChangedError
        done = 0
        while done < facts.size_bytes:
            if is_over is not None and is_over():
                raise CopyStoppedError
            data = read_at(file.fileno(), min(CHUNK_BYTES, facts.size_bytes - done), done, source, facts[:2])
            if not data:
                raise SourceChangedError
            done += len(data)
            _write(descriptor, data)
        if Facts.of(file.fileno()) != facts or retried(partial(Facts.of, source), source) != facts:
            raise SourceChangedError
    _finish(descriptor, facts)


def _download_into(descriptor: int, source: Address, facts: Facts, is_over: Callable[[], bool] | None) -> None:
    """`copy_into` from an address."""
    known = identity_of(source)
    if Facts._of_version(known) != facts:
        raise SourceChangedError
    for start in range(0, facts.size_bytes, CHUNK_BYTES):
        if is_over is not None and is_over():
            raise CopyStoppedError
        try:
            data = fetch(source, start, min(CHUNK_BYTES, facts.size_bytes - start), known).data
        except (UnreadableImageError, FileNotFoundError) as error:
            raise SourceChangedError from error
        _write(descriptor, data)
    _finish(descriptor, facts)


def _finish(descriptor: int, facts: Facts) -> None:
    """Wait until a copy is on its disk, with the time of its source."""
    try:
        os.fsync(descriptor)  # a power cut must not leave a copy of the right length that holds zeros
        os.utime(descriptor, ns=(facts.mtime_ns, facts.mtime_ns))
    except OSError as error:
        raise StageDiskError from error


def _write(descriptor: int, data: bytes) -> None:
    rest = memoryview(data)
    try:
        while rest:
            rest = rest[os.write(descriptor, rest) :]
    except OSError as error:
        raise StageDiskError from error
