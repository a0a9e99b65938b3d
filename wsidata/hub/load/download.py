"""Download of a dataset at one commit, which checkpoints remember.

A branch moves, and training must not resume on other data. Client libraries that cannot reach the Hub use their cache
silently; here that gives a warning, or an error if the cache is incomplete.
"""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from wsidata.hub.card import BEGIN
from wsidata.hub.client import HubError, HubOfflineWarning, UnreachableError
from wsidata.hub.manifest import CARD_FILE, JOURNAL_FOLDER, METADATA_FILE, PREPROCESSING_FILE, Preprocessing
from wsidata.hub.repository import HubRepository
from wsidata.utils.confine import Confinement

_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class LocalCopy:
    """Files of a dataset on this disk.

    Attributes:
        folder: Their folder.
        preprocessing: The manifest; None if the dataset was not published by this package.
        repository: Their repository; None for a local folder.
        commit: Their commit; None for a local folder.
        cache_dir: Folder of unpacked images. None: HF_HOME.
    """

    folder: Path
    preprocessing: Preprocessing | None
    repository: HubRepository | None = None
    commit: str | None = None
    cache_dir: Path | None = None

    @property
    def name(self) -> str:
        """Its name in messages."""
        return str(self.folder) if self.repository is None else f"{self.repository.repo_id}@{(self.commit or '')[:12]}"

    @cached_property
    def confine(self) -> Confinement:
        """Confinement of the paths it names to its folder; files of a download are links to the cache's blobs."""
        blobs = [] if self.repository is None else [self.folder.parent.parent / "blobs"]
        return Confinement(self.folder, also=blobs, error=HubError)

    def file(self, name: object, source: str) -> Path:
        """The path of a file that the dataset names.

        Raises:
            HubError: if it lies outside the dataset's folder.
        """
        return self.confine(name, source)

    @property
    def pin(self) -> dict[str, str | None]:
        """Its identity in checkpoints: `repo_id`, `commit`, and `digest` of the manifest."""
        repo_id = None if self.repository is None else self.repository.repo_id
        digest = None if self.preprocessing is None else self.preprocessing.digest
        return {"repo_id": repo_id, "commit": self.commit, "digest": digest}


def open_folder(folder: Path, cache_dir: Path | None = None) -> LocalCopy:
    """An exported folder, or one that `datasets` can load.

    Args:
        folder: The folder.
        cache_dir: Folder of images that are unpacked from Parquet.

    Raises:
        HubError: if there is no such folder.
        ExportFormatError: if an export is unfinished, or was modified.
    """
    if not folder.is_dir():
        raise HubError(f"'{folder}' is not a folder. Pass an exported folder, or the name of a dataset: 'owner/name'.")
    return LocalCopy(folder.absolute(), _preprocessing(folder), cache_dir=cache_dir)


def open_repository(repository: HubRepository, *, tables_only: bool = False) -> LocalCopy:
    """A dataset of a Hub at the requested revision, downloaded unless cached.

    A commit never changes, so one that is cached completely needs no request.

    Args:
        repository: The repository.
        tables_only: Leave images on the Hub.

    Raises:
        HubError: if it cannot be downloaded.

    Warns:
        HubOfflineWarning: if the Hub cannot be reached, and the cache holds the commit it last saw.
    """
    patterns = [PREPROCESSING_FILE, CARD_FILE, f"*{METADATA_FILE}"] if tables_only else None
    if repository.revision is not None and _COMMIT.fullmatch(repository.revision):
        folder = repository.cached_snapshot(patterns) or repository.snapshot(patterns)
    else:
        folder = _newest_snapshot(repository, patterns)
    return LocalCopy(folder, _preprocessing(folder), repository, folder.name, repository.cache_dir)


def _newest_snapshot(repository: HubRepository, patterns: list[str] | None) -> Path:
    """The folder of the newest commit; offline the cached copy, with a warning."""
    try:
        commit = repository.newest_commit()
    except UnreachableError as error:
        cached = repository.cached_snapshot(patterns)
        if cached is None:
            raise UnreachableError(
                f"{error}, and the cache has no complete copy of it. Connect once, or pass an exported folder."
            ) from error
        warnings.warn(
            f"{error}. The copy in the cache is used, commit {cached.name}, which may not be the newest. Pass "
            f"revision='{cached.name}' to confirm it.",
            HubOfflineWarning,
            stacklevel=3,
        )
        return cached
    folder = repository.snapshot(patterns)
    if folder.name != commit:  # the branch moved meanwhile, or the library fell back to its cache
        raise HubError(
            f"'{repository.repo_id}' was at commit {commit} and then at {folder.name} while it was downloaded. Try "
            f"again, or pass revision='{commit}'."
        )
    return folder


def _preprocessing(folder: Path) -> Preprocessing | None:
    """The manifest of a dataset; None if it was not published by this package.

    Raises:
        ExportFormatError: if its export is unfinished.
        HubError: if publishing it is unfinished.
    """
    if (folder / PREPROCESSING_FILE).exists() or (folder / JOURNAL_FOLDER).exists():
        return Preprocessing.load(folder)
    card = folder / CARD_FILE
    if card.exists() and BEGIN in card.read_text(encoding="utf-8"):
        raise HubError(
            f"'{folder}' is not complete: it is being published, or that was interrupted. Publish it again, wait, or "
            "pass the revision= of an earlier commit."
        )
    return None


def refuse_other_images(theirs: dict[str, str | None], copy: LocalCopy) -> None:
    """Refuse to resume training on other images than the checkpoint's.

    Args:
        theirs: The checkpoint's `pin`; empty if it has none.
        copy: The images to train on.

    Raises:
        HubError: if the commits differ; or the manifests, if one of the two is a folder.
    """
    ours = copy.pin
    trained, here = theirs.get("commit"), ours["commit"]
    if trained is not None and here is not None:
        if trained != here:
            raise HubError(
                f"the checkpoint was trained on commit {trained} of '{theirs.get('repo_id')}', and this is {here} of "
                f"'{ours['repo_id']}'. Pass revision='{trained}' to go on, or start a new run without ckpt_path."
            )
        return
    published = theirs.get("digest"), ours["digest"]
    if None not in published and published[0] != published[1]:
        raise HubError(
            f"the checkpoint was trained on other published images (digest {str(published[0])[:12]}) than those of "
            f"'{copy.name}' ({str(published[1])[:12]}). Use the same export, or start a new run without ckpt_path."
        )
