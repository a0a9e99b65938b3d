"""Upload of an export to a repository of the Hub, in steps that can be interrupted and repeated.

    1. the repository is created if necessary, and is private if requested; before that nothing is sent
    2. a commit that says "not complete": preprocessing.json is deleted, the card warns
    3. images, or shards (as many commits as the Hub needs; existing files are not sent again)
    4. one commit with tables, card and preprocessing.json, that also deletes files of earlier versions

Earlier versions stay in the repository's history: delete the repository to retract what should not have been public.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from wsidata.hub.card import BEGIN, agreed_card, unfinished_card
from wsidata.hub.export.journal import Journal
from wsidata.hub.manifest import (
    CARD_FILE,
    DATA_FOLDERS,
    IMAGE_FOLDER,
    MASK_FOLDER,
    PREPROCESSING_FILE,
    SHARD_FOLDER,
    Preprocessing,
)
from wsidata.hub.repository import HubRepository, PublishError
from wsidata.hub.secrets import Secrets, check_export
from wsidata.utils.confine import Confinement
from wsidata.utils.files import file_sha256, write_text
from wsidata.utils.messages import describe_problems


@dataclass(frozen=True)
class Published:
    """A dataset as published on the Hub.

    Attributes:
        repo_id: The repository.
        url: Its page, or that of the pull request.
        commit: Hash of the commit; `HubDataModule(repo_id, revision=commit)` loads exactly this version.
        private: Whether the repository is private.
        digest: `Preprocessing.digest`.
    """

    repo_id: str
    url: str
    commit: str
    private: bool
    digest: str


def upload(
    folder: str | Path, to: HubRepository, *, message: str | None = None, say: Callable[[str], None] = print
) -> Published:
    """Upload a finished export.

    Args:
        folder: The export.
        to: The repository.
        message: Message of the last commit.
        say: Called with each retry, and at the end.

    Raises:
        PublishError: if it fails.
        ExportFormatError: if the export is not finished.
        PrivacyError: if a file holds the home folder, the user's name, or an image with metadata.
        CardError: if the card was changed both in the folder and on the Hub.
    """
    folder = Path(folder)
    preprocessing = Preprocessing.load(folder)
    files = published_files(folder, preprocessing)
    check_export(folder, preprocessing, Secrets.of_machine())
    private = to.ensure(say)
    with to.explained(
        f"'{to.repo_id}' was not published; what was sent is marked as not complete, and publishing again goes on"
    ):
        return _Upload(folder, preprocessing, files, to, say).run(private, message)


def published_files(folder: Path, preprocessing: Preprocessing) -> list[str]:
    """Paths of all images or shards, and tables, of an export.

    Raises:
        PublishError: if a file is missing, was modified, or does not belong there.
    """
    expected: set[str] = set()
    problems: list[str] = []
    confine = Confinement(folder, error=PublishError)
    for table in preprocessing.tables:
        expected.add(table.path)
        if file_sha256(confine(table.path, PREPROCESSING_FILE)) != table.sha256:
            problems.append(f"{table.path} is missing or was changed")
        elif preprocessing.layout == "files":
            with pq.ParquetFile(folder / table.path) as rows:
                names = [name for name in ("file_name", "mask_file_name") if name in rows.schema_arrow.names]
                for column in rows.read(columns=names).to_pydict().values():
                    expected.update(f"{table.split}/{file}" for file in column)
    for file in sorted(expected):
        confine(file, "a table")
    tables = {table.path for table in preprocessing.tables}
    existing = {
        path.relative_to(folder).as_posix()
        for name in DATA_FOLDERS
        for path in (folder / name).rglob("*")
        if path.is_file()
    }
    problems += [f"{name} is missing" for name in sorted(expected - existing - tables)]
    problems += [f"{name} was not exported" for name in sorted(existing - expected)]
    if problems:
        remedy = "Nothing was sent. Export again; only what is missing is written."
        raise PublishError(describe_problems(str(folder), problems, remedy))
    return sorted(expected)


@dataclass(frozen=True)
class _Upload:
    """The steps of one upload."""

    folder: Path
    preprocessing: Preprocessing
    files: list[str]
    to: HubRepository
    say: Callable[[str], None]

    def run(self, private: bool, message: str | None) -> Published:
        """Take all steps that are needed."""
        api, to = self.to.api, self.to
        repository = {"repo_id": to.repo_id, "repo_type": "dataset"}
        if to.revision not in (None, "main") and not str(to.revision).startswith("refs/pr/"):
            self._try(lambda: api.create_branch(**repository, branch=to.revision, exist_ok=True))
        remote = self._try(lambda: _remote_files(api, to, to.revision))
        card = self._try(lambda: _remote_card(api, to)) if CARD_FILE in remote else ""
        stale = self._stale(remote)
        _refuse_other_data(to, remote, stale, card)
        _agree_on_card(self.folder, to, card)
        everything = [*self.files, CARD_FILE, PREPROCESSING_FILE]
        different = {path for path in everything if not _is_same(self.folder / path, remote.get(path))}
        page, revision = f"{api.endpoint}/datasets/{to.repo_id}", to.revision
        if not different and not stale:
            info = self._try(lambda: api.repo_info(**repository, revision=to.revision))
            self.say(f"'{to.repo_id}' has all of it already.")
            return Published(to.repo_id, page, info.sha, private, self.preprocessing.digest)
        opening = to.create_pr
        if stale or different != {CARD_FILE}:
            begun = self._try(lambda: self._begin(api, card))
            if opening:
                revision, page, opening = begun.pr_revision, begun.pr_url, False
            if different - set(self._last_files()):
                self._try(lambda: self._send(api, revision))
        done = self._try(lambda: self._finish(api, revision, message, opening))
        page = done.pr_url if opening else page
        Journal(self.folder).note(_card_note(to), {"text": (self.folder / CARD_FILE).read_text(encoding="utf-8")})
        self.say(f"published at {page} ({'private' if private else 'PUBLIC'}), commit {done.oid[:12]}.")
        return Published(to.repo_id, page, done.oid, private, self.preprocessing.digest)

    def _try(self, action: Callable[[], Any]) -> Any:
        return self.to.patience(action, self.say)

    def _begin(self, api: Any, card: str) -> Any:
        """Mark it as not complete; files are listed again, because a lost answer may hide a success."""
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        operations: list[Any] = [CommitOperationAdd(CARD_FILE, unfinished_card(card).encode())]
        if PREPROCESSING_FILE in _remote_files(api, self.to, self.to.revision):
            operations.append(CommitOperationDelete(PREPROCESSING_FILE))
        return api.create_commit(
            self.to.repo_id, operations, commit_message="Begin to publish", repo_type="dataset",
            revision=self.to.revision, create_pr=self.to.create_pr,
        )  # fmt: skip

    def _send(self, api: Any, revision: str | None) -> None:
        """Send images, or shards."""
        patterns = [f"{SHARD_FOLDER}/*"]
        if self.preprocessing.layout == "files":
            folders = (IMAGE_FOLDER, MASK_FOLDER)
            patterns = [f"{split}/{name}/*" for split in self.preprocessing.splits for name in folders]
        api.upload_folder(
            repo_id=self.to.repo_id, repo_type="dataset", revision=revision, folder_path=self.folder,
            allow_patterns=patterns, commit_message="Add images",
        )  # fmt: skip

    def _finish(self, api: Any, revision: str | None, message: str | None, create_pr: bool) -> Any:
        """Send what completes it, and delete files of earlier versions."""
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        stale = self._stale(_remote_files(api, self.to, revision))
        operations: list[Any] = [CommitOperationDelete(path) for path in stale]
        operations += [CommitOperationAdd(path, self.folder / path) for path in self._last_files()]
        return api.create_commit(
            self.to.repo_id, operations, commit_message=message or f"Publish {self.preprocessing.image_count} images",
            repo_type="dataset", revision=revision, create_pr=create_pr,
        )  # fmt: skip

    def _last_files(self) -> list[str]:
        """Files that mark the others as complete."""
        tables = [table.path for table in self.preprocessing.tables if self.preprocessing.layout == "files"]
        return [*tables, CARD_FILE, PREPROCESSING_FILE]

    def _stale(self, remote: dict[str, Any]) -> list[str]:
        """Files of earlier versions."""
        folders = tuple(f"{name}/" for name in DATA_FOLDERS)
        return sorted(path for path in remote if path.startswith(folders) and path not in set(self.files))


def _refuse_other_data(to: HubRepository, remote: dict[str, Any], stale: list[str], card: str) -> None:
    """Refuse to delete data that was not published by this package."""
    if stale and BEGIN not in card and PREPROCESSING_FILE not in remote:
        raise PublishError(
            f"'{to.repo_id}' holds other data ({', '.join(stale[:3])}), which publishing would remove. Choose another "
            "repository, or delete these files there first."
        )


def _remote_files(api: Any, to: HubRepository, revision: str | None) -> dict[str, Any]:
    """Files of a revision, by path."""
    tree = api.list_repo_tree(to.repo_id, repo_type="dataset", revision=revision, recursive=True)
    return {entry.path: entry for entry in tree if hasattr(entry, "blob_id")}


def _remote_card(api: Any, to: HubRepository) -> str:
    path = api.hf_hub_download(to.repo_id, CARD_FILE, repo_type="dataset", revision=to.revision)
    return Path(path).read_text(encoding="utf-8")


def _is_same(path: Path, entry: Any) -> bool:
    """Whether the repository has this file: by SHA-256, or by git blob id for small ones."""
    if entry is None or entry.size != path.stat().st_size:
        return False
    if entry.lfs is not None:
        return bool(entry.lfs.sha256 == file_sha256(path))
    content = path.read_bytes()
    return bool(entry.blob_id == hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest())


def _agree_on_card(folder: Path, to: HubRepository, remote: str) -> None:
    """Merge the user's changes on the Hub into the local card."""
    path = folder / CARD_FILE
    local = path.read_text(encoding="utf-8")
    agreed = agreed_card(local, remote, Journal(folder).noted(_card_note(to)).get("text"))
    if agreed != local:
        write_text(path, agreed)


def _card_note(to: HubRepository) -> str:
    """Name of the journal's note of the card that was last published there."""
    place = f"{to.endpoint} {to.repo_id} {to.revision} {to.create_pr}"
    return f"card-{hashlib.sha256(place.encode()).hexdigest()[:16]}"
