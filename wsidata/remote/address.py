"""Addresses of files on servers, as text that no path looks like.

Such as `https://host/slide.tif` and `s3://bucket/slide.zarr`. An address is text that begins with one of the known
protocols and `://`. It is the user's own word: data may not name any (see `wsidata.utils.confine`), and a label table
only those below the address that the user passed for its slides. Messages show it without what may be secret in it: a
password, or the signature in its query.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from typing import TypeAlias
from urllib.parse import unquote, urlsplit

from wsidata.errors import UnsupportedImageError

WEB = ("http", "https")
PROTOCOLS = (*WEB, "s3", "gs", "gcs", "az", "abfs", "abfss", "hf", "memory")
"""Those that are read; all tell when a file was replaced by another one."""
HIDDEN = "<hidden>"
ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/+(?!/|$)(.*)", re.DOTALL)
"""Text that is no path, whether or not `Path` has made one slash of two."""
STORE_SUFFIX = ".zarr"


class Address:
    """The address of a file, or of a folder that is a Zarr store.

    Args:
        text: The address.

    Attributes:
        text: All of it.
        protocol: What stands before `://`, in lower case.

    Raises:
        UnsupportedImageError: if it is of another protocol, or was copied from a message.
    """

    def __init__(self, text: str) -> None:
        found = ADDRESS.fullmatch(text.strip())
        protocol = "" if found is None else found[1].lower()
        if found is None or "://" not in text or protocol not in PROTOCOLS:
            shown = text.strip()
            raise UnsupportedImageError(
                f"'{shown}' is an address of a kind that is not read. Slides are read from disks, and from addresses "
                f"that begin with {', '.join(f'{name}://' for name in PROTOCOLS)}. Copy it to a local disk, and pass "
                "its path there."
            )
        if HIDDEN in text:
            raise UnsupportedImageError(
                f"'{text}' is an address as messages show it, without its query or password. Pass all of it."
            )
        self.text, self.protocol = f"{protocol}://{found[2]}", protocol

    @property
    def path(self) -> str:
        """What follows the host or bucket, without the query: "/slides/a.tif"."""
        return urlsplit(self.text).path if self.protocol in WEB else f"/{self.text.partition('://')[2]}"

    @property
    def name(self) -> str:
        """The last part of its path, as a file would be called; never one that leads to another folder."""
        last = PurePosixPath(self.path).name
        decoded = unquote(last) if self.protocol in WEB else last
        return last if decoded in ("", ".", "..") or {"/", "\0"} & set(decoded) else decoded

    @property
    def suffix(self) -> str:
        """The suffix of its name, such as ".tif"."""
        return PurePosixPath(self.name).suffix

    @property
    def stem(self) -> str:
        """Its name without suffix."""
        return PurePosixPath(self.name).stem

    @property
    def is_store(self) -> bool:
        """Whether it is a Zarr store, or an image in one: one of its folders ends in ".zarr"."""
        return any(part.lower().endswith(STORE_SUFFIX) for part in PurePosixPath(self.path).parts)

    def below(self, name: str) -> Address:
        """The address of a file in it, as in a folder; its query stays."""
        if self.protocol not in WEB:
            return Address(f"{self.text.rstrip('/')}/{name}")
        before, mark, query = self.text.partition("?")
        return Address(f"{before.rstrip('/')}/{name}{mark}{query}")

    def __str__(self) -> str:
        """The address without password and query."""
        if self.protocol not in WEB:
            return self.text
        parts = urlsplit(self.text)
        _, at, host = parts.netloc.rpartition("@")
        user, query = HIDDEN + at if at else "", f"?{HIDDEN}" if parts.query else ""
        return f"{self.protocol}://{user}{host}{parts.path}{query}"

    def __repr__(self) -> str:
        return f"Address({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Address) and other.text == self.text

    def __hash__(self) -> int:
        return hash(self.text)


SlidePath: TypeAlias = Path | Address
"""Where a slide is: a file or folder on a disk, or an address."""


def is_address(name: object) -> bool:
    """Whether text is an address and not a path; also if it is of a protocol that is not read."""
    is_text = isinstance(name, str) and "://" in name
    return isinstance(name, Address) or (is_text and ADDRESS.fullmatch(str(name).strip()) is not None)


def shown(path: object) -> str:
    """A path as messages and files have it; of an address without what may be secret in it."""
    text = str(path)
    try:
        return str(Address(text)) if is_address(text) else text
    except UnsupportedImageError:  # of no kind that is read, or hidden already
        return text


def slide_path(path: str | SlidePath) -> SlidePath:
    """A path or an address, from text.

    Raises:
        UnsupportedImageError: for an address of a kind that is not read, or one that was made a path.
    """
    if isinstance(path, Address):
        return path
    if isinstance(path, Path) and not path.is_absolute() and ADDRESS.fullmatch(str(path)) and not path.exists():
        raise UnsupportedImageError(
            f"'{path}' was an address before it became a Path, which made one slash of two. Pass it as text."
        )
    return Address(path) if isinstance(path, str) and is_address(path) else Path(path)


def needs_file(address: Address, why: str) -> UnsupportedImageError:
    """The error for what only a library reads that needs a file on a disk.

    Args:
        address: The address.
        why: What it is, a sentence that names it.
    """
    return UnsupportedImageError(
        f"{why.rstrip('.')}. From a server only TIFF and OME-Zarr are read. Download the file, and pass its path."
    )
