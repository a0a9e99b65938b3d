"""Errors of the Hub's client libraries, explained, and retries of requests that may succeed later.

The libraries raise errors of the HTTP library they happen to use, wrapped several times; a user needs to know whether
to wait, to log in, or to free disk space.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TypeVar

_CLIENTS = ("httpx", "httpx2", "httpcore", "httpcore2", "requests", "urllib3")
"""Libraries whose own errors mean that there is no connection; which is used depends on huggingface_hub's version."""

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_RETRIED = (408, 409, 412, 429)
_QUOTA = (402, 413, 507)
_MAX_REASON = 300
_Result = TypeVar("_Result")


class HubError(RuntimeError):
    """The Hub, or a local copy of a dataset, cannot be used as requested; the message says what to do."""


class UnreachableError(HubError):
    """There is no connection, or the Hub is down."""


class HubOfflineWarning(UserWarning):
    """The Hub cannot be reached, and a cached copy is used, which may not be the newest."""


class HubWarning(UserWarning):
    """What is loaded differs from what was published; the message says how."""


def check_installed(library: str, what: str) -> None:
    """Raise an error if a library is not installed.

    Raises:
        HubError: saying how to install it.
    """
    if find_spec(library) is None:
        raise HubError(f"{what} needs the library {library}: pip install 'slidestream[hub]'.")


# -- kinds of errors ---------------------------------------------------------------------------------------------------


def status_of(error: BaseException) -> int | None:
    """The HTTP status of an error, if it has one."""
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
    """Whether the Hub is reachable but could not answer, or dropped the connection."""
    status = status_of(error)
    if status is not None:
        return status >= 500 or status in (408, 429)
    return type(error).__name__ in ("RemoteProtocolError", "ReadError", "ReadTimeout", "ChunkedEncodingError")


def is_disk_full(error: BaseException) -> bool:
    """Whether an error, or one of its causes, is that of a full disk, a quota or a file size limit."""
    return any(isinstance(cause, OSError) and cause.errno in _FULL for cause in _causes(error))


def is_quota(error: BaseException) -> bool:
    """Whether the account's storage is used up."""
    telling = telling_error(error)
    words = str(telling).lower()
    said = status_of(telling) == 403 and any(word in words for word in ("quota", "storage limit", "storage patterns"))
    return status_of(telling) in _QUOTA or said


def telling_error(error: BaseException) -> BaseException:
    """The first of an error and its causes that has an HTTP status or means no connection; uploads wrap it."""
    return next((cause for cause in _causes(error) if status_of(cause) is not None or is_unreachable(cause)), error)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error and what caused it, outermost first."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__


# -- retries -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Patience:
    """Retries with exponential backoff; an instance is called with the request.

    Attributes:
        attempts: Maximum number of attempts.
        wait_seconds: Wait before the second; doubled before each further one.
        repeat_on: Whether an error is worth another attempt. None: `worth_repeating`.
    """

    attempts: int = 6
    wait_seconds: float = 1.0
    repeat_on: Callable[[BaseException], bool] | None = None

    def __call__(self, action: Callable[[], _Result], say: Callable[[str], None] = print) -> _Result:
        """The result of the first attempt that succeeds.

        Raises:
            Exception: the last error of `action`.
        """
        for attempt in range(1, self.attempts + 1):
            try:
                return action()
            except Exception as error:
                if attempt == self.attempts or not (self.repeat_on or worth_repeating)(error):
                    raise
                wait = self.wait_seconds * 2 ** (attempt - 1)
                reason = _reason(telling_error(error))
                say(f"the Hub says: {reason}. Trying again in {wait:g} s ({attempt} of {self.attempts}).")
                time.sleep(wait)
        raise ValueError(f"attempts={self.attempts} must be at least 1.")


def worth_repeating(error: BaseException) -> bool:
    """Whether the same request may succeed later: the Hub was busy or unreachable, or a commit came in between."""
    from huggingface_hub.errors import OfflineModeIsEnabled

    telling = telling_error(error)
    if is_disk_full(error) or is_quota(error) or isinstance(telling, OfflineModeIsEnabled):
        return False
    status = status_of(telling)
    return status in _RETRIED if status is not None and status < 500 else is_unreachable(telling)


# -- explanations ------------------------------------------------------------------------------------------------------


def explain_download(error: Exception, what: str, revision: str | None = None) -> HubError:
    """A `HubError` with cause and remedy for a client library's error during a download.

    Args:
        error: The error.
        what: What failed, as a clause.
        revision: The requested revision.
    """
    from huggingface_hub import errors

    reason = _reason(error)
    if isinstance(error, errors.RevisionNotFoundError):
        return HubError(f"{what}: there is no revision '{revision}'. Look up branches and commits on its page.")
    if isinstance(error, errors.RepositoryNotFoundError | errors.GatedRepoError) or status_of(error) in (401, 403):
        return HubError(
            f"{what}: it does not exist, or this token may not read it ({reason}). Check the name; for a private or "
            "gated dataset log in (`hf auth login`, or HF_TOKEN) with an account that has access."
        )
    if is_disk_full(error):
        return HubError(f"{what}: no space is left on the disk ({reason}). Free some, or pass another cache_dir=.")
    if is_unreachable(error):
        return UnreachableError(f"{what}: the Hub does not answer ({type(error).__name__}: {reason})")
    return HubError(f"{what}: {type(error).__name__}: {reason}")


def explain_upload(error: Exception, what: str, repo_id: str) -> str:
    """A message with cause and remedy for a client library's error during an upload.

    Args:
        error: The error.
        what: What failed, as a clause.
        repo_id: The repository.
    """
    from huggingface_hub.errors import OfflineModeIsEnabled

    telling = telling_error(error)
    reason, status = _reason(telling), status_of(telling)
    owner = repo_id.partition("/")[0]
    if isinstance(telling, OfflineModeIsEnabled):
        return f"{what}: HF_HUB_OFFLINE is set. Unset it to publish."
    if is_disk_full(error):
        return f"{what}: no space is left on the disk ({reason}). Free some in TMPDIR and HF_HOME."
    if is_quota(error):
        return (
            f"{what}: the storage of '{owner}' is used up ({reason}). Free some, or ask for more on its billing page."
        )
    if status == 401:
        return f"{what}: the access token is not valid ({reason}). Log in again (`hf auth login`), or pass token=."
    if status in (403, 404):
        return (
            f"{what}: this token may not write there ({reason}). It needs permission to write to '{owner}' "
            "(https://huggingface.co/settings/tokens); check the name too."
        )
    if is_unreachable(telling):
        return f"{what}: the Hub does not answer ({type(telling).__name__}: {reason}). Try again later."
    return f"{what}: {type(error).__name__}: {reason}"


def _reason(error: BaseException) -> str:
    return (" ".join(str(error).split()) or type(error).__name__)[:_MAX_REASON]
