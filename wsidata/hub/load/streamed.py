"""Datasets whose images stay on the Hub, where each is downloaded for its sample and then deleted.

Rows are fetched one at a time, in any order, so batches equal those of a local copy, at the price of downloading every
image once an epoch. At most one image per worker is on the disk.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from wsidata.datasets.epochs import EpochDataset
from wsidata.datasets.photos import PhotoDataset
from wsidata.datasets.slides import SlideDataset
from wsidata.hub.client import HubError
from wsidata.hub.repository import HubRepository
from wsidata.utils.files import file_sha256


@dataclass(frozen=True)
class RemoteFiles:
    """Images, and perhaps masks, of a table's rows in one commit of a Hub repository.

    Attributes:
        repository: The repository.
        commit: The commit.
        images: Path below the root and SHA-256 of each row's image.
        masks: The same for each row's mask; empty without masks.
    """

    repository: HubRepository
    commit: str
    images: Sequence[tuple[str, str]]
    masks: Sequence[tuple[str, str]] = ()

    @classmethod
    def of_rows(cls, repository: HubRepository, commit: str, rows: pd.DataFrame) -> RemoteFiles:
        """The files of rows with `file_name` and `sha256`, and perhaps `mask_file_name` and `mask_sha256`."""
        images = list(zip(rows["file_name"], rows["sha256"], strict=True))
        has_masks = "mask_file_name" in rows.columns
        masks = list(zip(rows["mask_file_name"], rows["mask_sha256"], strict=True)) if has_masks else []
        return cls(repository, commit, images, masks)

    def fetch(self, name: str, sha256: str, folder: Path) -> str:
        """Download a file into a folder, and return its path.

        Raises:
            HubError: if it cannot be downloaded, or is not the file that was published.
        """
        path = self.repository.fetch(name, self.commit, folder)
        digest = str(file_sha256(path))
        if digest != sha256:
            raise HubError(
                f"'{name}' of '{self.repository.repo_id}' at {self.commit} is not the image that was published "
                f"(SHA-256 {digest[:12]}, not {sha256[:12]})."
            )
        return str(path)


class _Streamed(EpochDataset):
    """Mixin for datasets of files: a row's files are on this disk only while its sample is made."""

    paths: list[str]
    masks: list[str] | None = None

    def __init__(self, *args: Any, remote: RemoteFiles, **options: Any) -> None:
        super().__init__(*args, **options)
        self.remote = remote

    def __getitem__(self, index: int) -> Any:
        """The sample, or the image alone."""
        with self._downloaded(index % len(self), with_mask=self.masks is not None):
            return super().__getitem__(index)

    def image(self, index: int) -> Any:
        """The image of one sample."""
        with self._downloaded(index % len(self)):
            return super().image(index)  # type: ignore[safe-super]  # abstract only in the base of both

    def describe(self) -> str:
        """How images are read."""
        return f"streamed from {self.remote.repository.repo_id}"

    @contextmanager
    def _downloaded(self, row: int, *, with_mask: bool = False) -> Iterator[None]:
        if self.paths[row]:  # `__getitem__` calls `image`
            yield
            return
        with tempfile.TemporaryDirectory(prefix="slidestream-") as folder:
            try:
                self.paths[row] = self.remote.fetch(*self.remote.images[row], Path(folder))
                if with_mask and self.masks is not None:
                    self.masks[row] = self.remote.fetch(*self.remote.masks[row], Path(folder))
                yield
            finally:
                self.paths[row] = ""


class StreamedSlideDataset(_Streamed, SlideDataset):
    """A `SlideDataset` whose files are fetched for each sample; `remote` says where they are."""


class StreamedPhotoDataset(_Streamed, PhotoDataset):
    """A `PhotoDataset` whose files are fetched for each sample; `remote` says where they are."""
