"""Where an export goes: a repository of the Hub that exists, may be written to, and is as private as was asked for.

Nothing is sent before that is certain. That a wish for privacy is ignored for a repository which exists is the Hub's
way, and is found out here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from wsidata.hub.card import CardError
from wsidata.hub.client import HubError, Patience, explain_upload
from wsidata.hub.manifest import ExportFormatError


class PublishError(HubError):
    """Publishing was refused or failed; the message says why, what has been sent, and what to do."""


@dataclass(frozen=True)
class Destination:
    """Where an export goes, and how patiently.

    Attributes:
        repo_id: "name/of-data-set".
        private: Whether the repository must be private; a new one becomes so.
        revision: Branch, made if there is none, or "refs/pr/N". None: main.
        create_pr: Open a pull request instead of changing main.
        token: Access token. None: HF_TOKEN, or who is logged in.
        endpoint: Address of the Hub. None: HF_ENDPOINT, or huggingface.co.
        patience: How often and how long to try.
    """

    repo_id: str
    private: bool = True
    revision: str | None = None
    create_pr: bool = False
    token: str | None = None
    endpoint: str | None = None
    patience: Patience = field(default_factory=Patience)

    def __post_init__(self) -> None:
        if self.create_pr and self.revision is not None:
            raise ValueError("create_pr=True opens a pull request against main: leave out revision=.")

    @property
    def api(self) -> Any:
        """The client.

        Raises:
            PublishError: if huggingface_hub is not installed, or there is no token.
        """
        try:
            from huggingface_hub import HfApi, get_token
        except ImportError as error:
            raise PublishError("publishing needs huggingface_hub: pip install 'slidestream[hub]'.") from error
        token = self.token or get_token()
        if token is None:
            raise PublishError(
                "there is no access token, so nothing was sent. Run `hf auth login`, or set HF_TOKEN, or pass token=; "
                "it needs permission to write (https://huggingface.co/settings/tokens)."
            )
        return HfApi(endpoint=self.endpoint, token=token)


def ensure_repository(to: Destination, say: Callable[[str], None] = print) -> bool:
    """Make the repository if there is none, and make sure that nobody sees it who should not.

    Args:
        to: Where.
        say: Told what is unexpected.

    Returns:
        Whether it is private.

    Raises:
        PublishError: if it is public and `to.private`; or there is no token, permission or network.
    """
    from huggingface_hub.errors import RepositoryNotFoundError

    api = to.api
    with explained(f"'{to.repo_id}' could not be prepared; nothing was sent", to):
        try:
            info = to.patience(lambda: api.repo_info(to.repo_id, repo_type="dataset"), say)
        except RepositoryNotFoundError:
            to.patience(
                lambda: api.create_repo(to.repo_id, repo_type="dataset", private=to.private, exist_ok=True), say
            )
            info = to.patience(lambda: api.repo_info(to.repo_id, repo_type="dataset"), say)
    if to.private and not info.private:
        raise PublishError(
            f"'{to.repo_id}' is public, and private=True was asked for; the Hub does not change a repository that "
            "exists. Nothing was sent. Make it private in its settings, choose another name, or pass private=False to "
            "publish to everybody."
        )
    if info.private and not to.private:
        say(f"'{to.repo_id}' exists and is private; it stays so until you change its settings.")
    return bool(info.private)


@contextmanager
def explained(what: str, to: Destination) -> Iterator[None]:
    """Errors of the client libraries as ours."""
    try:
        yield
    except (PublishError, CardError, ExportFormatError):
        raise
    except Exception as error:
        raise PublishError(explain_upload(error, what, to.repo_id)) from error
