"""A dataset repository of the Hugging Face Hub, to download from and to publish to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from wsidata.hub.card import CardError
from wsidata.hub.client import HubError, Patience, explain_download, explain_upload, is_busy
from wsidata.hub.manifest import ExportFormatError

DOWNLOAD_PATIENCE = Patience(attempts=5, repeat_on=is_busy)
"""For a Hub that answers, but is busy or drops connections; without a connection, the cache is used instead."""

_Answer = TypeVar("_Answer")


class PublishError(HubError):
    """Publishing failed; the message says why, what has been sent, and what to do."""


@dataclass(frozen=True)
class HubRepository:
    """A dataset repository of a Hub, and how it is accessed.

    Attributes:
        repo_id: "owner/name".
        private: Publish only to a private repository; a new one becomes private.
        into_private: With `private=False`: publish to a repository that exists and is private, and stays so.
        revision: Branch, tag or commit. To publish: a branch, created if there is none, or "refs/pr/N". None: main.
        create_pr: Publish as a pull request instead of changing main.
        token: Access token. None or True: HF_TOKEN, or the one stored by `hf auth login`. False: none, for downloads.
        endpoint: Address of the Hub. None: HF_ENDPOINT, or huggingface.co.
        patience: How often and how long to try to publish.
        cache_dir: Folder of downloads. None: that of huggingface_hub (HF_HOME).
    """

    repo_id: str
    private: bool = True
    revision: str | None = None
    create_pr: bool = False
    token: str | bool | None = None
    endpoint: str | None = None
    patience: Patience = field(default_factory=Patience)
    cache_dir: Path | None = None
    into_private: bool = False

    def __post_init__(self) -> None:
        if self.create_pr and self.revision is not None:
            raise ValueError("create_pr=True opens a pull request against main: leave out revision=.")

    # -- downloading ---------------------------------------------------------------------------------------------------

    def newest_commit(self) -> str:
        """The commit that `revision` points to now.

        Raises:
            UnreachableError: if the Hub does not answer.
            HubError: if access is denied.
        """
        from huggingface_hub import HfApi

        api = HfApi(endpoint=self.endpoint, token=self.token)
        return self._download(
            lambda: str(api.dataset_info(self.repo_id, revision=self.revision).sha),
            f"'{self.repo_id}' cannot be opened",
        )

    def snapshot(self, patterns: list[str] | None) -> Path:
        """Download the files that match the patterns (None: all); returns their folder, named by the commit.

        Raises:
            HubError: saying why it failed.
        """
        what = f"'{self.repo_id}' could not be downloaded"
        return self._download(lambda: self._snapshot(patterns, cached=False), what)

    def cached_snapshot(self, patterns: list[str] | None) -> Path | None:
        """The same from the cache alone; None if it is not there, or incomplete."""
        from huggingface_hub.errors import LocalEntryNotFoundError

        try:
            return self._snapshot(patterns, cached=True)
        except LocalEntryNotFoundError:
            return None

    def _snapshot(self, patterns: list[str] | None, *, cached: bool) -> Path:
        from huggingface_hub import snapshot_download

        folder = snapshot_download(
            self.repo_id, repo_type="dataset", revision=self.revision, endpoint=self.endpoint, token=self.token,
            cache_dir=self.cache_dir, allow_patterns=patterns, local_files_only=cached,
        )  # fmt: skip
        return Path(str(folder))

    def fetch(self, path: str, commit: str, folder: Path) -> Path:
        """Download one file of a commit into a folder.

        Raises:
            HubError: saying why it failed.
        """
        from huggingface_hub import hf_hub_download

        def download() -> Path:
            file = hf_hub_download(
                self.repo_id, path, repo_type="dataset", revision=commit, endpoint=self.endpoint, token=self.token,
                local_dir=folder,
            )  # fmt: skip
            return Path(str(file))

        return self._download(download, f"'{path}' of '{self.repo_id}' could not be downloaded")

    def _download(self, request: Callable[[], _Answer], what: str) -> _Answer:
        """The answer of a request, which is repeated while the Hub is busy; client libraries repeat only some."""
        try:
            return DOWNLOAD_PATIENCE(request)
        except Exception as error:
            raise explain_download(error, what, self.revision) from error

    # -- publishing ----------------------------------------------------------------------------------------------------

    @property
    def api(self) -> Any:
        """A client that may write.

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

    def ensure(self, say: Callable[[str], None] = print) -> bool:
        """Create the repository if there is none, and check that it is as private as requested.

        The Hub silently ignores `private` for a repository that exists, so this is checked before anything is sent.

        Args:
            say: Called with what is unexpected.

        Returns:
            Whether it is private.

        Raises:
            PublishError: if it is public and should not be, or private without `into_private`; or without token,
                permission or network.
        """
        from huggingface_hub.errors import RepositoryNotFoundError

        api, place = self.api, {"repo_id": self.repo_id, "repo_type": "dataset"}
        with self.explained(f"'{self.repo_id}' could not be prepared; nothing was sent"):
            try:
                info = self.patience(lambda: api.repo_info(**place), say)
            except RepositoryNotFoundError:
                self.patience(lambda: api.create_repo(**place, private=self.private, exist_ok=True), say)
                info = self.patience(lambda: api.repo_info(**place), say)
        if self.private and not info.private:
            raise PublishError(
                f"'{self.repo_id}' is public, and private=True was requested; the Hub does not change a repository "
                "that exists. Nothing was sent. Make it private in its settings, choose another name, or pass "
                "private=False to publish to everybody."
            )
        if info.private and not self.private:
            if not self.into_private:
                raise PublishError(
                    f"'{self.repo_id}' exists and is private, and private=False was requested; the Hub does not change "
                    "a repository that exists. Nothing was sent. To publish to everybody, make it public in its "
                    "settings or choose another name; to add to it as it is, pass private=True, or into_private=True "
                    "(--into-private)."
                )
            say(f"'{self.repo_id}' exists and is private; it stays so until you change its settings.")
        return bool(info.private)

    @contextmanager
    def explained(self, what: str) -> Iterator[None]:
        """Raise errors of the client libraries as `PublishError`, with a remedy."""
        try:
            yield
        except (PublishError, CardError, ExportFormatError):
            raise
        except Exception as error:
            raise PublishError(explain_upload(error, what, self.repo_id)) from error


Destination = HubRepository
"""The name of `HubRepository` where it is published to."""
