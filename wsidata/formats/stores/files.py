"""The files of a Zarr store, in a folder or in a ZIP archive.

Both are stores for zarr, and say of each file how long it is and what it begins with, so that chunks can be checked
before they are decoded. Nothing is unpacked: names in an archive are only names, and lead nowhere.

A ZIP archive states what is in it at its end (central directory). It is compared with the limits before it is parsed:
the number of entries, and the size that a compressed one becomes. CRCs are checked of what is read whole.
APPNOTE.TXT 6.3.10, sections 4.3.12 (directory), 4.3.14 and 4.3.16 (its end); RFC 9 of OME-NGFF.
"""

from __future__ import annotations

import io
import os
import struct
import threading
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from zarr.storage import LocalStore, ZipStore

from wsidata.errors import UnreadableImageError, UnsupportedImageError
from wsidata.formats.limits import check_limit
from wsidata.formats.stores.remote import RemoteFiles
from wsidata.remote.address import Address, SlidePath
from wsidata.remote.source import open_file

METADATA = ("zarr.json", ".zattrs", ".zgroup", ".zarray")
"""Files by which a folder is a Zarr store."""
END, END_64 = b"PK\x05\x06", b"PK\x06\x06"
END_BYTES, COMMENT_BYTES, ENTRY_BYTES = 22, 65_535, 46
"""Length of the end of an archive, of the longest comment after it, and of an entry of its directory at least."""
UNSTATED = 2**32 - 1


class StoreFiles(Protocol):
    """The files of a Zarr store by their keys, such as "0/c/0/1"; also a store for zarr.

    Attributes:
        can_list: Whether `keys` knows them; a web server tells only of a file that is asked for.
    """

    can_list: bool

    def prefetch(self, keys: Sequence[str]) -> None:
        """Request some files together that are read soon; nothing on a disk."""

    def size(self, key: str) -> int | None:
        """Length of a file in bytes; None where there is none."""

    def read(self, key: str, start: int, count: int) -> bytes:
        """Up to `count` bytes of a file."""

    def keys(self, folder: str) -> Iterator[str]:
        """Names of all files below a folder of the store, relative to it."""


def open_files(path: SlidePath) -> tuple[StoreFiles, str]:
    """The files of a store in a folder or archive, and the folder in it that is the store; "" for all of it."""
    if isinstance(path, Address) and path.is_store:
        return RemoteFiles(path), ""
    if isinstance(path, Path) and not path.is_file():
        return FolderFiles(path, read_only=True), ""
    files = ZipFiles(path.name)
    files.place = path
    files._sync_open()
    return files, files.folder()


class FolderFiles(LocalStore):
    """A store in a folder, whose files are files: a named pipe would be waited for."""

    can_list = True

    def prefetch(self, keys: Sequence[str]) -> None:
        """Nothing."""

    async def get(self, key: str, *args: Any, **options: Any) -> Any:
        """The content of a file, or None where there is none."""
        file = self.root / key
        if file.exists() and not (file.is_file() or file.is_dir()):
            raise UnreadableImageError(f"'{file}' is no file. Copy the slide again from its source.")
        return await super().get(key, *args, **options)

    def size(self, key: str) -> int | None:
        """Length of a file in bytes; None where there is none."""
        try:
            return (self.root / key).stat().st_size
        except FileNotFoundError:
            return None

    def read(self, key: str, start: int, count: int) -> bytes:
        """Up to `count` bytes of a file."""
        with (self.root / key).open("rb") as stream:
            stream.seek(start)
            return stream.read(count)

    def keys(self, folder: str) -> Iterator[str]:
        """Names of all files below a folder of the store, relative to it.

        Raises:
            UnreadableImageError: for a pipe or device, which would be waited for.
        """
        pending = [""]
        while pending:  # a folder that is a link is no folder here: it may lead back
            inner = pending.pop()
            with os.scandir(self.root / folder / inner) as found:
                entries = list(found)
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    pending.append(f"{inner}{entry.name}/")
                elif entry.is_file():
                    yield inner + entry.name
                else:
                    raise UnreadableImageError(f"'{entry.path}' is no file. Copy the slide again from its source.")


class ZipFiles(ZipStore):
    """A store in a ZIP archive, read in place; open until it is dropped. For several threads.

    Attributes:
        place: The archive, on a disk or a server.

    Raises:
        UnreadableImageError: if it is damaged, or holds two files of one name.
        UnsupportedImageError: if a file in it is encrypted, or compressed by another method than deflate.
        LimitExceededError: if it states too many files, or one that becomes too large.
    """

    can_list = True
    place: SlidePath

    def prefetch(self, keys: Sequence[str]) -> None:
        """Nothing."""

    def _sync_open(self) -> None:
        self._lock = threading.RLock()
        file = io.BufferedReader(open_file(self.place))  # which shares no position with other processes after a fork
        _check_directory(file, self.place)
        try:
            self._zf = zipfile.ZipFile(file)
        except (zipfile.BadZipFile, RuntimeError, struct.error, ValueError) as error:
            raise UnreadableImageError(
                f"'{self.place}' is a damaged ZIP archive ({error}). Copy it again from its source."
            ) from error
        self._check_entries()
        self._is_open = True

    def _check_entries(self) -> None:
        entries = self._zf.infolist()
        if len({entry.filename for entry in entries}) < len(entries):
            raise UnreadableImageError(
                f"'{self.place}' holds two files of one name; which is meant cannot be told. Pack it again."
            )
        for entry in entries:
            if entry.flag_bits & 1 or entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise UnsupportedImageError(
                    f"'{self.place}': '{entry.filename}' is encrypted, or compressed by method {entry.compress_type}. "
                    "Pack the store without compression: its chunks are compressed (zip -r -0)."
                )
            if entry.compress_type == zipfile.ZIP_DEFLATED:
                what = f"{entry.file_size:,} bytes of '{entry.filename}', unpacked at once"
                check_limit("max_decoded_bytes", entry.file_size, self.place, what)

    def folder(self) -> str:
        """The folder in the archive that is the store: "" for its root, or the only one there is.

        Raises:
            UnreadableImageError: if there is no Zarr store.
        """
        names = set(self._zf.namelist())
        tops = {name.partition("/")[0] for name in names}
        for folder in ("", *(tops if len(tops) == 1 else ())):
            if any(f"{folder}/{name}".lstrip("/") in names for name in METADATA):
                return str(folder)
        raise UnreadableImageError(
            f"'{self.place}' is a ZIP archive: unpack it first, and open what is in it. Only an OME-Zarr is read from "
            "within an archive, which has to lie at its root or in its only folder."
        )

    def size(self, key: str) -> int | None:
        """Length of a file in bytes; None where there is none."""
        try:
            return self._zf.getinfo(key).file_size
        except KeyError:
            return None

    def read(self, key: str, start: int, count: int) -> bytes:
        """Up to `count` bytes of a file.

        Raises:
            UnreadableImageError: if it is damaged, by its CRC where it is read to its end.
        """
        try:
            with self._lock, self._zf.open(key) as stream:
                stream.seek(start)
                return stream.read(count)
        except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
            raise UnreadableImageError(
                f"'{self.place}': '{key}' is damaged ({error}). Copy the archive again from its source."
            ) from error

    def keys(self, folder: str) -> Iterator[str]:
        """Names of all files below a folder of the store, relative to it."""
        start = f"{folder}/"
        for name in self._zf.namelist():
            if name.startswith(start) and not name.endswith("/"):
                yield name[len(start) :]


def _check_directory(file: BinaryIO, path: SlidePath) -> None:
    """Compare the number of entries that the directory of an archive has room for with the limit."""
    file_bytes = file.seek(0, os.SEEK_END)
    file.seek(max(0, file_bytes - END_BYTES - COMMENT_BYTES - 256))
    tail = file.read()
    at = tail.rfind(END)
    if at < 0 or len(tail) < at + END_BYTES:
        raise UnreadableImageError(f"'{path}' is a ZIP archive that was cut off: its end is missing. Copy it again.")
    (size,) = struct.unpack_from("<I", tail, at + 12)
    at_64 = tail.rfind(END_64, 0, at)
    if size == UNSTATED and at_64 >= 0:
        (size,) = struct.unpack_from("<Q", tail, at_64 + 40)
    size = min(size, file_bytes)
    check_limit("max_chunks", size // ENTRY_BYTES, path, f"{size // ENTRY_BYTES:,} files in a ZIP archive")
