"""The Hub is busy, or somebody else commits: worth waiting for, but not for ever, and only if waiting can help.

The clients retry some requests by themselves, but not a refused commit (409, 412), and give up on the first 503 of one.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from wsidata.hub.errors import is_disk_full, is_unreachable, status_of

Result = TypeVar("Result")
_AGAIN = (408, 409, 412, 429)
_QUOTA = (402, 413, 507)
_WORDS = 300


@dataclass(frozen=True)
class Patience:
    """How often something is tried; an instance is called with what to try.

    Attributes:
        attempts: Times in all.
        wait_seconds: Before the second; twice as long before each further one.
        repeat_on: Whether an error is worth another attempt. None: `worth_repeating`.
    """

    attempts: int = 6
    wait_seconds: float = 1.0
    repeat_on: Callable[[BaseException], bool] | None = None

    def __call__(self, action: Callable[[], Result], say: Callable[[str], None] = print) -> Result:
        """Do it, again if that may help.

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
    """Whether the same request may succeed later: a busy or absent Hub, or a commit that came in between."""
    from huggingface_hub.errors import OfflineModeIsEnabled

    telling = telling_error(error)
    if is_disk_full(error) or is_quota(error) or isinstance(telling, OfflineModeIsEnabled):
        return False
    status = status_of(telling)
    return status in _AGAIN if status is not None and status < 500 else is_unreachable(telling)


def telling_error(error: BaseException) -> BaseException:
    """The error behind this one that knows what the Hub answered, or that it did not; uploads wrap it."""
    cause: BaseException | None = error
    while cause is not None:
        if status_of(cause) is not None or is_unreachable(cause):
            return cause
        cause = cause.__cause__ or cause.__context__
    return error


def is_quota(error: BaseException) -> bool:
    """Whether the account's storage is used up."""
    telling = telling_error(error)
    words = str(telling).lower()
    said = status_of(telling) == 403 and any(word in words for word in ("quota", "storage limit", "storage patterns"))
    return status_of(telling) in _QUOTA or said


def explain_upload(error: Exception, what: str, repo_id: str) -> str:
    """An error of the client libraries while something was uploaded, with its cause and a remedy.

    Args:
        error: The error.
        what: What could not be done, as a clause.
        repo_id: Where.
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
        return f"{what}: the access token is not valid ({reason}). Log in anew (`hf auth login`), or pass token=."
    if status in (403, 404):
        return (
            f"{what}: this token may not write there ({reason}). It needs permission to write to '{owner}' "
            "(https://huggingface.co/settings/tokens); check the name too."
        )
    if is_unreachable(telling):
        return f"{what}: the Hub does not answer ({type(telling).__name__}: {reason}). Try again later."
    return f"{what}: {type(error).__name__}: {reason}"


def _reason(error: BaseException) -> str:
    return (" ".join(str(error).split()) or type(error).__name__)[:_WORDS]
