"""Images that stay on the Hub: each is downloaded when its sample is made, and deleted when it has been.

Rows are fetched one at a time, in any order, so a run sees the very batches it would see with all files on its disk, at
the price of downloading every image once an epoch. Nothing but one image per worker is ever kept.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd

from wsidata.datasets.epochs import EpochDataset
from wsidata.datasets.photos import PhotoDataset
from wsidata.datasets.slides import SlideDataset
from wsidata.hub.client import HubError
from wsidata.hub.load.download import HubAddress


class StreamedDataset(EpochDataset):
    """Another dataset, whose files are fetched for each sample.

    Args:
        dataset: Says how samples are made of files.
        files: Row by row `file_name` and `sha256`, and perhaps `mask_file_name` and `mask_sha256`; below the root.
        address: Where they are.
        commit: Of which commit.
    """

    def __init__(
        self, dataset: SlideDataset | PhotoDataset, files: pd.DataFrame, address: HubAddress, commit: str
    ) -> None:
        super().__init__(dataset.transform, fresh_epochs=dataset.fresh_epochs)
        self.dataset = dataset
        self.noun = dataset.noun
        self._epoch_seed = dataset._epoch_seed  # one number for both
        self._images = list(zip(files["file_name"], files["sha256"], strict=True))
        self._masks: list[tuple[str, str]] = []
        if "mask_file_name" in files.columns:
            self._masks = list(zip(files["mask_file_name"], files["mask_sha256"], strict=True))
        self._address, self._commit = address, commit

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        """The sample, or the image alone, as the other dataset makes it."""
        with self._files(index % len(self), masks=True):
            return self.dataset[index]

    def image(self, index: int) -> Any:
        """The image of one sample."""
        with self._files(index % len(self), masks=False):
            return self.dataset.image(index)

    def describe(self) -> str:
        """How images are read."""
        return f"streamed from {self._address.repo_id}"

    @contextmanager
    def _files(self, row: int, *, masks: bool) -> Iterator[None]:
        """Have the files of a row on this disk for a moment."""
        with tempfile.TemporaryDirectory(prefix="slidestream-") as folder:
            self.dataset.paths[row] = self._fetched(Path(folder), *self._images[row])
            if masks and self._masks and isinstance(self.dataset, SlideDataset) and self.dataset.masks is not None:
                self.dataset.masks[row] = self._fetched(Path(folder), *self._masks[row])
            yield

    def _fetched(self, folder: Path, name: str, sha256: str) -> str:
        path = self._address.fetch(name, self._commit, folder)
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != sha256:
            raise HubError(
                f"'{name}' of '{self._address.repo_id}' at {self._commit} is not the image that was published "
                f"(SHA-256 {digest[:12]}, not {sha256[:12]})."
            )
        return str(path)
