"""Requests for ranges of bytes, each checked to be of the same version of a file.

They are tried again where a server fails. A range is right only if the file is still what it was. A web server states
length, ETag and time of modification with each answer, which are compared; of an object store they are asked for after
each range. A server that does not send ranges is refused rather than made to send the whole file.
RFC 9110, sections 8.8 (ETag, Last-Modified), 14.4 (Content-Range) and 15.5.17 (416).
"""

from __future__ import annotations

import errno
import math
import os
import re
import time
from collections.abc import Callable, Mapping
from email.utils import parsedate_to_datetime
from functools import partial
from threading import Lock
from typing import Any, NamedTuple

from wsidata.errors import SlideError, UnreachableImageError, UnreadableImageError, UnsupportedImageError
from wsidata.remote.address import HIDDEN, WEB, Address
from wsidata.utils.retries import FAILING, retried

PASSING = {408, 425, 429, 500, 502, 503, 504}
"""Answers of a web server that has too much to do, or fails now."""
ABSENT = {404, 410}
BEYOND = 416
PARTIAL = 206
CONNECT_S, READ_S = 30.0, 60.0
"""Seconds after which a server that does not answer, or stops in the middle, is asked again."""
REST_S = 60.0
"""Seconds after its last change from which another change would show in the time of it, with clocks that differ."""
PIECE_BYTES = 1 << 20
VERSIONS = {
    *("etag", "last-modified", "lastmodified", "last_modified", "mtime", "modified", "created", "updated"),
    *("generation", "versionid", "version_id", "md5hash", "crc32c", "content-md5", "content_md5", "blob_id", "lfs"),
}  # what file systems of fsspec call that by which a version of a file is known
PACKAGES = {
    "s3": "slidestream[remote]",
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "az": "adlfs",
    "abfs": "adlfs",
    "abfss": "adlfs",
}

_filesystems: dict[tuple[int, str], Any] = {}
_lock = Lock()


class RemoteIdentity(NamedTuple):
    """What tells whether an address still has the file it had.

    Attributes:
        address: The address.
        length: Bytes of the file.
        version: What the server says of its version, such as its ETag; "" if nothing.
        modified_s: Time of its last change in seconds since 1970, if that alone is its version.
    """

    address: str
    length: int
    version: str
    modified_s: float | None

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self.length

    def is_at_rest(self) -> bool:
        """Whether another file would have another identity."""
        is_old = self.modified_s is None or time.time() - self.modified_s >= REST_S
        return bool(self.version) and is_old


class Answer(NamedTuple):
    """Bytes of a file, and what it was when they were sent."""

    data: bytes
    identity: RemoteIdentity


def fetch(address: Address, start: int, count: int, known: RemoteIdentity | None = None) -> Answer:
    """Bytes of a file, from a place on; fewer where it ends.

    Args:
        address: The address.
        start: The first byte.
        count: How many, at least 1.
        known: What the file has to be.

    Raises:
        FileNotFoundError: if the server has no such file.
        UnreadableImageError: if it is another file than `known`.
        UnsupportedImageError: if the server does not send ranges, or a package is missing to talk to it.
        UnreachableImageError: if the server or the network fails, after retries, or access is denied.
    """
    ask = _fetch_web if address.protocol in WEB else _fetch_object
    answer = retried(partial(_named, ask, address, start, count), address)
    if known is not None and answer.identity != known:
        raise UnreadableImageError(
            f"'{address}' was replaced by another file while it was read ({_difference(known, answer.identity)}). "
            "Open it again."
        )
    if len(answer.data) != min(count, max(0, answer.identity.length - start)):
        raise UnreadableImageError(
            f"'{address}': its server sent {len(answer.data)} of {count} bytes from byte {start} on. Download the "
            "file, and pass its path."
        )
    return answer


def filesystem(address: Address) -> Any:
    """The file system of fsspec for an address, one for all threads of a process; settings are those of fsspec.

    Raises:
        UnsupportedImageError: if its package is not installed.
    """
    with _lock:
        key = os.getpid(), address.protocol  # connections do not outlive a fork
        if key not in _filesystems:
            import fsspec

            try:
                _filesystems[key] = fsspec.filesystem(address.protocol, skip_instance_cache=True)
            except ImportError as error:
                package = PACKAGES.get(address.protocol, "fsspec[http]")
                raise UnsupportedImageError(
                    f"'{address}' is read through a package that is not installed ({error}). Install it: "
                    f"pip install '{package}'. Or download the file, and pass its path."
                ) from error
        return _filesystems[key]


def _named(ask: Callable[..., Answer], address: Address, start: int, count: int) -> Answer:
    """An answer; what went wrong in a library is an error that names the address."""
    try:
        return ask(address, start, count)
    except SlideError:
        raise
    except FileNotFoundError as error:
        raise FileNotFoundError(errno.ENOENT, "its server has no such file. Check the address", str(address)) from error
    except Exception as error:  # libraries raise their own
        if _is_passing(error):
            raise ConnectionResetError(errno.ECONNRESET, f"{os.strerror(errno.ECONNRESET)}: {_said(error)}") from error
        raise _unreachable(address, f"{type(error).__name__}: {_said(error)}") from error


def _said(error: Exception) -> str:
    """What a library says, without queries and passwords of the addresses that it names, or was led to."""
    return re.sub(r"//[^/\s@]+@", f"//{HIDDEN}@", re.sub(r"\?[^\s'\"]+", f"?{HIDDEN}", str(error)))


def _is_passing(error: Exception) -> bool:
    """Whether a connection broke or took too long, as it may for once."""
    if isinstance(error, (TimeoutError, ConnectionError)) or (isinstance(error, OSError) and error.errno in FAILING):
        return True
    passing = {"ServerDisconnectedError", "ClientPayloadError", "ServerTimeoutError", "IncompleteRead"}
    return any(kind.__name__ in passing for kind in type(error).__mro__)


def _fetch_web(address: Address, start: int, count: int) -> Answer:
    from fsspec.asyn import sync

    web = filesystem(address)
    answer: Answer = sync(web.loop, _get, web, address, start, count)
    return answer


async def _get(web: Any, address: Address, start: int, count: int) -> Answer:
    import aiohttp

    settings = dict(web.kwargs)
    headers = {**settings.pop("headers", {}), "Range": f"bytes={start}-{start + count - 1}"}
    headers["Accept-Encoding"] = "identity"
    settings.setdefault("timeout", aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S, sock_read=READ_S))
    session = await web.set_session()
    async with session.get(web.encode_url(address.text), headers=headers, **settings) as response:
        if address.protocol == "https" and response.url.scheme != "https":
            raise _unreachable(address, "it leads to an address without encryption")
        length, expected = _stated_range(address, response, start, count)
        identity = _web_identity(address, length, response.headers)
        data = bytearray()
        async for piece in response.content.iter_chunked(PIECE_BYTES):
            data += piece
            if len(data) > expected:  # never more than was asked for, whatever the server sends
                raise _unreachable(address, f"its server sends more than the {expected} bytes it states")
        if len(data) < expected:
            raise ConnectionResetError(errno.ECONNRESET, f"{len(data)} of {expected} bytes came")
        return Answer(bytes(data), identity)


def _stated_range(address: Address, response: Any, start: int, count: int) -> tuple[int, int]:
    """Length of the file, and number of bytes in an answer, by its status and headers.

    Raises:
        UnsupportedImageError: if it is the whole file, or encoded.
        UnreachableImageError: if access is denied, or it makes no sense.
    """
    status, headers = response.status, response.headers
    if status in ABSENT:
        raise FileNotFoundError
    if status in PASSING:
        raise ConnectionResetError(errno.ECONNRESET, f"{status} {response.reason}")
    stated = re.fullmatch(r"bytes (?:(\d+)-(\d+)|\*)/(\d+)", headers.get("Content-Range", "").strip())
    if status == BEYOND and stated is not None:
        return int(stated[3]), 0
    if headers.get("Content-Encoding", "identity") not in ("identity", ""):
        raise UnsupportedImageError(
            f"'{address}' is sent compressed ({headers['Content-Encoding']}), so ranges of it mean something else. "
            "Download the file, and pass its path."
        )
    if status == 200:
        length = headers.get("Content-Length", "")
        if start == 0 and length.isdecimal() and int(length) <= count:
            return int(length), int(length)
        raise UnsupportedImageError(
            f"the server of '{address}' sends whole files only, no ranges of bytes, so that reading any part would "
            "download all of it. Download the file once, and pass its path."
        )
    if status == PARTIAL and stated is not None and stated[1] is not None:
        first, last, length = map(int, stated.groups())
        if first == start and last == min(start + count, length) - 1:
            return length, last - first + 1
        raise _unreachable(address, f"its server sent bytes {first}-{last}, not {start}-{start + count - 1}")
    raise _unreachable(address, f"its server answered {status} {response.reason}")


def _web_identity(address: Address, length: int, headers: Mapping[str, str]) -> RemoteIdentity:
    tag, modified = headers.get("ETag", ""), headers.get("Last-Modified", "")
    is_strong = bool(tag) and not tag.startswith("W/")  # a weak one may stay the same when bytes change
    modified_s = None if is_strong else _seconds(modified)
    return RemoteIdentity(address.text, length, " ".join(filter(None, (tag, modified))), modified_s)


def _seconds(date: str) -> float:
    """Seconds since 1970 of a time in a header; infinite if it states none."""
    try:
        return parsedate_to_datetime(date).timestamp()
    except (TypeError, ValueError):
        return math.inf


def _fetch_object(address: Address, start: int, count: int) -> Answer:
    store = filesystem(address)
    path = store._strip_protocol(address.text)
    before = _object_identity(address, store.info(path, refresh=True))
    stop = min(start + count, before.length)
    data = bytes(store.cat_file(path, start=start, end=stop)) if start < stop else b""
    after = _object_identity(address, store.info(path, refresh=True)) if start < stop else before
    if after != before:
        raise UnreadableImageError(f"'{address}' was replaced by another file while it was read. Open it again.")
    return Answer(data, after)


def _object_identity(address: Address, info: Mapping[str, Any]) -> RemoteIdentity:
    if info.get("type", "file") != "file" or info.get("size") is None:
        raise FileNotFoundError
    version = sorted(f"{name}={value}" for name, value in info.items() if name.lower() in VERSIONS)
    return RemoteIdentity(address.text, int(info["size"]), " ".join(version), None)


def _unreachable(address: Address, why: str) -> UnreachableImageError:
    return UnreachableImageError(
        f"'{address}' cannot be read: {why}. Check the address, the network, and your access to it (of object stores "
        "by the environment variables of fsspec, such as FSSPEC_S3_ANON=true); or download the file, and pass its path."
    )


def _difference(known: RemoteIdentity, now: RemoteIdentity) -> str:
    if known.length != now.length:
        return f"{known.length} bytes then, {now.length} now"
    return f"version {known.version!r} then, {now.version!r} now"
