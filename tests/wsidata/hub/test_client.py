from types import SimpleNamespace

import pytest
from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled

from wsidata.hub.client import Patience, explain_upload, is_quota, worth_repeating


class AnswerError(Exception):
    """An error with a response, as client libraries raise it."""

    def __init__(self, status, text="as ordered"):
        super().__init__(text)
        self.response = SimpleNamespace(status_code=status)


def wrapped(error):
    """The error wrapped, as uploads raise it."""
    try:
        try:
            raise error
        except Exception as inner:
            raise RuntimeError("Error while uploading 'x' to the Hub.") from inner
    except RuntimeError as outer:
        return outer


@pytest.mark.parametrize(
    ("error", "again"),
    [
        *[(AnswerError(status), True) for status in (408, 409, 412, 429, 500, 502, 503, 504)],
        *[(AnswerError(status), False) for status in (400, 401, 402, 403, 404, 413, 507)],
        (ConnectionError("refused"), True),
        (TimeoutError(), True),
        (LocalEntryNotFoundError("no answer"), True),
        (OfflineModeIsEnabled("offline"), False),
        (OSError(28, "No space left on device"), False),
        (ValueError("wrong"), False),
        (wrapped(AnswerError(503)), True),
        (wrapped(AnswerError(403)), False),
        (wrapped(OSError(28, "No space left on device")), False),
    ],
    ids=repr,
)
def test_only_transient_errors_are_retried(error, again):
    assert worth_repeating(error) is again


def test_waits_grow_and_end():
    said, tried = [], []

    def fail():
        tried.append(1)
        raise AnswerError(503)

    with pytest.raises(AnswerError):
        Patience(4, 0.001)(fail, said.append)
    assert len(tried) == 4
    assert [line.partition("again in ")[2] for line in said] == [
        "0.001 s (1 of 4).", "0.002 s (2 of 4).", "0.004 s (3 of 4).",
    ]  # fmt: skip


def test_result_of_the_first_success_counts():
    answers = iter([AnswerError(412), AnswerError(409), 7])

    def act():
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert Patience(5, 0.001)(act, lambda _: None) == 7


def test_permanent_errors_are_raised_at_once():
    tried = []

    def fail():
        tried.append(1)
        raise AnswerError(403)

    with pytest.raises(AnswerError):
        Patience(5, 0.001)(fail, lambda _: None)
    assert len(tried) == 1


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (AnswerError(401), "access token is not valid.*hf auth login"),
        (AnswerError(403), "may not write there.*'me'.*settings/tokens"),
        (AnswerError(403, "Private repository storage limit reached"), "storage of 'me' is used up"),
        (AnswerError(507), "storage of 'me' is used up"),
        (AnswerError(503), "does not answer.*Try again later"),
        (wrapped(ConnectionError("refused")), "does not answer.*refused"),
        (OSError(28, "No space left on device"), "no space is left on the disk.*TMPDIR"),
        (OfflineModeIsEnabled("x"), "HF_HUB_OFFLINE is set"),
        (AnswerError(400, "bad"), "AnswerError: bad"),
    ],
)
def test_errors_come_with_a_remedy(error, remedy):
    with pytest.raises(RuntimeError, match=f"(?s)not published: .*{remedy}"):
        raise RuntimeError(explain_upload(error, "not published", "me/data"))


def test_quota_is_distinguished_from_a_missing_permission():
    assert is_quota(AnswerError(403, "You have exceeded your quota"))
    assert not is_quota(AnswerError(403, "forbidden"))
