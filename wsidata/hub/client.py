"""What can go wrong between a Hub and a training run, and how the client libraries' errors are told apart.

They raise errors of the HTTP library they happen to use, wrapped several times; a user needs to know whether to wait,
to log in, or to free some disk.
"""

from __future__ import annotations

import errno
from importlib.util import find_spec

_CLIENTS = ("httpx", "httpx2", "httpcore", "httpcore2", "requests", "urllib3")
"""Libraries whose own errors mean that there is no connection; which is used depends on huggingface_hub's age."""

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_WORDS = 300


class HubError(RuntimeError):
    """The Hub, or a copy of it, does not give what is asked for; the message says what to do."""


class UnreachableError(HubError):
    """There is no connection, or the Hub is down."""


class HubOfflineWarning(UserWarning):
    """The Hub cannot be reached, and a copy in the cache is used, which may not be the newest."""


class HubWarning(UserWarning):
    """What is loaded is not in every way what was published; the message says how it differs."""


def check_installed(library: str, what: str) -> None:
    """Refuse what needs a library that is not installed.

    Raises:
        HubError: saying how to install it.
    """
    if find_spec(library) is None:
        raise HubError(f"{what} needs the library {library}: pip install 'slidestream[hub]'.")


def explain_download(error: Exception, what: str, revision: str | None = None) -> HubError:
    """An error of the client libraries while something was downloaded, with its cause and a remedy.

    Args:
        error: The error.
        what: What could not be done, as a clause.
        revision: The revision that was asked for.
    """
    from huggingface_hub import errors

    reason = " ".join(str(error).split())[:_WORDS]
    if isinstance(error, errors.RevisionNotFoundError):
        return HubError(f"{what}: there is no revision '{revision}'. Look up branches and commits on its page.")
    if isinstance(error, errors.RepositoryNotFoundError | errors.GatedRepoError) or status_of(error) in (401, 403):
        return HubError(
            f"{what}: it does not exist, or this token may not read it ({reason}). Check the name; for a private or "
            "gated data set log in (`hf auth login`, or HF_TOKEN) with an account that has access."
        )
    if is_disk_full(error):
        return HubError(f"{what}: no space is left on the disk ({reason}). Free some, or pass another cache_dir=.")
    if is_unreachable(error):
        return UnreachableError(f"{what}: the Hub does not answer ({type(error).__name__}: {reason})")
    return HubError(f"{what}: {type(error).__name__}: {reason}")


def status_of(error: BaseException) -> int | None:
    """The HTTP status an error is about, if it is about one."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    return status if isinstance(status, int) else None


def is_unreachable(error: BaseException) -> bool:
    """Whether there is no connection, or the Hub is down or busy."""
    from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled

    if status_of(error) is not None:
        return is_busy(error)
    known = isinstance(error, OfflineModeIsEnabled | LocalEntryNotFoundError | ConnectionError | TimeoutError)
    return known or type(error).__module__.split(".")[0] in _CLIENTS


def is_busy(error: BaseException) -> bool:
    """Whether a Hub that is there could not answer now, or broke off: what is worth another attempt."""
    status = status_of(error)
    if status is not None:
        return status >= 500 or status in (408, 429)
    return type(error).__name__ in ("RemoteProtocolError", "ReadError", "ReadTimeout", "ChunkedEncodingError")


def is_disk_full(error: BaseException) -> bool:
    """Whether an error, or one that caused it, is that of a full disk, a quota or a file size limit."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in _FULL:
            return True
        cause = cause.__cause__ or cause.__context__
    return False
