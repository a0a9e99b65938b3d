"""An export becomes a repository of the Hub, in steps that can be interrupted and repeated, and never too publicly.

    1. the repository exists, and is private if it should be; before that nothing is sent
    2. a commit that says "not complete": preprocessing.json goes, the card warns
    3. images, or shards (as many commits as the Hub needs; what it has already is not sent again)
    4. one commit with tables, card and preprocessing.json, that also removes what is left of earlier versions

Earlier versions stay in the repository's history: delete the repository to take back what should not have been public.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from wsidata.hub.card import BEGIN, CardError, agreed_card, unfinished_card
from wsidata.hub.errors import HubError
from wsidata.hub.journal import Journal, file_sha256
from wsidata.hub.layout import (
    CARD_FILE,
    HUB_SPLITS,
    IMAGE_FOLDER,
    MASK_FOLDER,
    PREPROCESSING_FILE,
    SHARD_FOLDER,
    ExportFormatError,
    Preprocessing,
)
from wsidata.hub.retries import Patience, explain_upload

_OURS = tuple(f"{name}/" for name in (*HUB_SPLITS.values(), SHARD_FOLDER))


class PublishError(HubError):
    """Publishing was refused or failed; the message says why, what has been sent, and what to do."""


@dataclass(frozen=True)
class Published:
    """What is on the Hub now.

    Attributes:
        repo_id: The repository.
        url: Its page, or that of the pull request.
        commit: Hash of the commit: `HubDataModule(repo_id, revision=commit)` is exactly this version.
        private: Whether the repository is private.
        digest: `Preprocessing.digest`.
    """

    repo_id: str
    url: str
    commit: str
    private: bool
    digest: str


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
    with _explained(f"'{to.repo_id}' could not be prepared; nothing was sent", to):
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


def upload(
    folder: str | Path, to: Destination, *, message: str | None = None, say: Callable[[str], None] = print
) -> Published:
    """Upload a finished export.

    Args:
        folder: The export.
        to: Where to.
        message: Of the last commit.
        say: Told about what is repeated, and at the end.

    Raises:
        PublishError: see the class.
        ExportFormatError: if the export is not finished.
        CardError: if the card was changed both here and there.
    """
    folder = Path(folder)
    preprocessing = Preprocessing.load(folder)
    files = published_files(folder, preprocessing)
    private = ensure_repository(to, say)
    with _explained(
        f"'{to.repo_id}' was not published; what was sent is marked as not complete, and publishing again goes on", to
    ):
        return _upload(folder, preprocessing, files, to, private, message, say)


def published_files(folder: Path, preprocessing: Preprocessing) -> list[str]:
    """Images or shards, and tables, of an export; all of them, and nothing else.

    Raises:
        PublishError: if a file is missing, was changed, or does not belong there.
    """
    expected: set[str] = set()
    problems: list[str] = []
    for table in preprocessing.tables:
        expected.add(table.path)
        if file_sha256(folder / table.path) != table.sha256:
            problems.append(f"{table.path} is missing or was changed")
        elif preprocessing.layout == "files":
            with pq.ParquetFile(folder / table.path) as rows:
                names = [name for name in ("file_name", "mask_file_name") if name in rows.schema_arrow.names]
                for column in rows.read(columns=names).to_pydict().values():
                    expected.update(f"{table.split}/{file}" for file in column)
    tables = {table.path for table in preprocessing.tables}
    present = {
        path.relative_to(folder).as_posix() for name in _OURS for path in (folder / name).rglob("*") if path.is_file()
    }
    problems += [f"{name} is missing" for name in sorted(expected - present - tables)]
    problems += [f"{name} was not exported" for name in sorted(present - expected)]
    if problems:
        raise PublishError(
            f"'{folder}' is not as it was exported: {'; '.join(problems[:5])}"
            + (f"; and {len(problems) - 5} more" if len(problems) > 5 else "")
            + ". Export again (only what is missing is written), and nothing of it was sent."
        )
    return sorted(expected)


def _upload(
    folder: Path,
    preprocessing: Preprocessing,
    files: list[str],
    to: Destination,
    private: bool,
    message: str | None,
    say: Callable[[str], None],
) -> Published:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    api = to.api
    options: dict[str, Any] = {"repo_id": to.repo_id, "repo_type": "dataset"}
    if to.revision not in (None, "main") and not str(to.revision).startswith("refs/pr/"):
        to.patience(lambda: api.create_branch(**options, branch=to.revision, exist_ok=True), say)
    remote = to.patience(lambda: _remote_files(api, to), say)
    remote_card = to.patience(lambda: _remote_card(api, to), say) if CARD_FILE in remote else ""
    stale = [path for path in remote if path.startswith(_OURS) and path not in files]
    if stale and BEGIN not in remote_card and PREPROCESSING_FILE not in remote:
        raise PublishError(
            f"'{to.repo_id}' holds other data ({', '.join(stale[:3])}), which publishing would remove. Choose another "
            "repository, or delete these files there first."
        )
    _agree_on_card(folder, to, remote_card)
    everything = [*files, CARD_FILE, PREPROCESSING_FILE]
    different = [path for path in everything if not _is_same(folder / path, remote.get(path))]
    if not different and not stale:
        info = to.patience(lambda: api.repo_info(**options, revision=to.revision), say)
        say(f"'{to.repo_id}' has all of it already.")
        return Published(to.repo_id, _page(api, to), info.sha, private, preprocessing.digest)
    options |= {"revision": to.revision}
    url = _page(api, to)
    final = [path for path in (CARD_FILE, PREPROCESSING_FILE, *files) if _is_last(path, preprocessing)]
    if set(different) - {CARD_FILE} or stale:
        first: list[Any] = [CommitOperationAdd(CARD_FILE, unfinished_card(remote_card).encode())]
        first += [CommitOperationDelete(PREPROCESSING_FILE)] if PREPROCESSING_FILE in remote else []
        begun = to.patience(
            lambda: api.create_commit(
                **options, operations=list(first), commit_message="Begin to publish", create_pr=to.create_pr
            ),
            say,
        )
        if to.create_pr:
            options["revision"], url = begun.pr_revision, begun.pr_url
        if set(different) - set(final):
            to.patience(
                lambda: api.upload_folder(
                    **options, folder_path=folder, allow_patterns=_patterns(preprocessing), commit_message="Add images"
                ),
                say,
            )
    last: list[Any] = [CommitOperationDelete(path) for path in stale]
    last += [CommitOperationAdd(path, folder / path) for path in final]
    opened = to.create_pr and options["revision"] is None
    done = to.patience(
        lambda: api.create_commit(
            **options,
            operations=list(last),
            commit_message=message or f"Publish {preprocessing.image_count} images",
            create_pr=opened,
        ),
        say,
    )
    url = done.pr_url if opened else url
    Journal(folder).note(_card_note(to), {"text": (folder / CARD_FILE).read_text(encoding="utf-8")})
    say(f"published at {url} ({'private' if private else 'PUBLIC'}), commit {done.oid[:12]}.")
    return Published(to.repo_id, url, done.oid, private, preprocessing.digest)


def _is_last(path: str, preprocessing: Preprocessing) -> bool:
    """Whether a file makes the rest look complete."""
    tables = {table.path for table in preprocessing.tables} if preprocessing.layout == "files" else set()
    return path in (CARD_FILE, PREPROCESSING_FILE) or path in tables


def _patterns(preprocessing: Preprocessing) -> list[str]:
    """What is uploaded before."""
    if preprocessing.layout == "parquet":
        return [f"{SHARD_FOLDER}/*"]
    return [f"{split}/{name}/*" for split in preprocessing.splits for name in (IMAGE_FOLDER, MASK_FOLDER)]


def _remote_files(api: Any, to: Destination) -> dict[str, Any]:
    """Files of the revision by path."""
    tree = api.list_repo_tree(to.repo_id, repo_type="dataset", revision=to.revision, recursive=True)
    return {entry.path: entry for entry in tree if hasattr(entry, "blob_id")}


def _remote_card(api: Any, to: Destination) -> str:
    path = api.hf_hub_download(to.repo_id, CARD_FILE, repo_type="dataset", revision=to.revision)
    return Path(path).read_text(encoding="utf-8")


def _is_same(path: Path, entry: Any) -> bool:
    """Whether the repository has this very file: by SHA-256, or as git names small ones."""
    if entry is None or entry.size != path.stat().st_size:
        return False
    if entry.lfs is not None:
        return bool(entry.lfs.sha256 == file_sha256(path))
    content = path.read_bytes()
    return bool(entry.blob_id == hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest())


def _agree_on_card(folder: Path, to: Destination, remote: str) -> None:
    """Take over what the user changed on the Hub."""
    path = folder / CARD_FILE
    local = path.read_text(encoding="utf-8")
    agreed = agreed_card(local, remote, Journal(folder).noted(_card_note(to)).get("text"))
    if agreed != local:
        path.write_text(agreed, encoding="utf-8")


def _card_note(to: Destination) -> str:
    """Name of the note of the card that was last published there."""
    place = f"{to.endpoint} {to.repo_id} {to.revision}"
    return f"card-{hashlib.sha256(place.encode()).hexdigest()[:16]}"


def _page(api: Any, to: Destination) -> str:
    return f"{api.endpoint}/datasets/{to.repo_id}"


@contextmanager
def _explained(what: str, to: Destination) -> Iterator[None]:
    """Errors of the client libraries as ours."""
    try:
        yield
    except (PublishError, CardError, ExportFormatError):
        raise
    except Exception as error:
        raise PublishError(explain_upload(error, what, to.repo_id)) from error
