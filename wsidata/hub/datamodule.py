"""Lightning DataModule of published datasets, from a folder or the Hugging Face Hub.

Rows, splits, pixels, statistics and batches are those of the data module that was published. The commit is recorded in
checkpoints.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from lightning.pytorch.trainer.states import TrainerFn
from numpy.typing import NDArray

from wsidata.datamodules.base import Leaks, Sampling, SplitDataModule
from wsidata.datamodules.checkpoint import plain
from wsidata.datamodules.checks import check_batchable
from wsidata.datamodules.geometry import Geometry, Setting
from wsidata.datamodules.image_folder import IMAGENET
from wsidata.datasets.cases import CaseDataset
from wsidata.datasets.epochs import EpochDataset
from wsidata.datasets.loader import WorkerStart
from wsidata.datasets.photos import PhotoDataset
from wsidata.hub.client import HubError
from wsidata.hub.load.download import refuse_other_images
from wsidata.hub.load.open import Opened, open_published
from wsidata.hub.load.streamed import RemoteFiles
from wsidata.hub.load.tables import check_images
from wsidata.hub.manifest import Preprocessing
from wsidata.splits.leaks import LeakKind
from wsidata.splits.make import SmallClasses
from wsidata.stats.result import ChannelStats
from wsidata.tables.label_table import LabelTable, slides_of
from wsidata.tables.parts import Part, SplitError

_THREADS = 4


class HubDataModule(SplitDataModule):
    """Images that were published with `wsidata.publish` or exported to a folder; or any image classification dataset.

    Tables, classes, split, statistics and batches are those of the data module that was published, and so are the
    defaults of image size, type, batch size and sampling. Augmentation is drawn from (seed, epoch, row) as usual; for
    lossless encodings training equals the publisher's bitwise.

    Any other dataset of the Hub, with a column of images and one of classes, is read like a folder of photos (see
    `ImageFolderDataModule`). If it has no validation split, one is drawn from its training rows.

    Args:
        source: "owner/name" of a dataset on the Hub; or a folder, exported or one that `datasets` can load. A folder
            of that name takes precedence.
        revision: Branch, tag or commit. None: the main branch. Its present commit is recorded in checkpoints, and
            training resumes with that one only.
        streaming: Leave the images on the Hub, and download each when its sample is made, in every epoch. For exports
            with a file per image.
        lazy: Images are not decoded by the loader: a batch holds a list of `LazyImage`s. For pyramidal TIFF (exported
            with `image_format="tiff"`). None: as published.
        verify: Compare the SHA-256 of every image on this disk with the published one, in `setup`.
        image_size: Height and width to crop or pad to, in pixels. None: as published.
        resize_px: For photos: length of the shorter side they are read at; "auto" as in `ImageFolderDataModule`, None
            for full size. "published": as published; "auto" if not published by this package.
        train_transform: As for `WSIDataModule`. None: the default of the kind of images, for `image_size`.
        eval_transform: The same for validation, test and prediction.
        dtype: "uint8" or "float". None: as published.
        normalize: For photos: "stats", "imagenet", None for neither, or "published".
        batch_size: Samples per batch (and process). None: as published.
        num_workers: Worker processes per loader.
        worker_start: "forkserver" or "spawn". None: the fork server where available.
        decode_threads: Tiles of a slide that are decoded at a time, by each worker or this process, if it is read from
            32 tiles or more. None: one in workers; without workers, and for rows of `lazy` images, one per processor.
        pin_memory: Page-locked batches. None: if CUDA is available.
        predict_on: "train", "val", "test", "all", or None: the test rows, or all rows if there are none.
            "published": as published.
        sampling: "shuffle" or "balanced". None: as published.
        stats: Channel statistics to use instead of the published ones, or the file they were saved in.
        leaks: What to do about leakage between splits: "off", "warn" or "error".
        leak_checks: What to check. None: all that apply; for streamed images, patients and sites.
        config: For datasets not published by this package, as the next seven: configuration, if there are several.
        image_column: Its column of images. None: the only one.
        label_column: Its column of classes. None: the only `ClassLabel`, or "label".
        group_column: Its column of patients.
        site_column: Its column of centers or scanners.
        val_fraction: Fraction of its training rows to validate on, if it has no validation split. None: 0.2.
        seed: Seed of that draw. None: 42.
        small_classes: As for `WSIDataModule`, in that draw. None: "raise".
        token: Token for private and gated datasets. None: the one stored by `hf auth login`, or in HF_TOKEN.
        endpoint: Address of the Hub. None: HF_ENDPOINT, or huggingface.co.
        cache_dir: Folder of downloads and unpacked images. None: HF_HOME.
        allow_changed: Settings that may differ from those of a checkpoint's model, such as `["resolution"]`. Without,
            predicting, testing or training with it raises an error that names both values; see `geometry.Setting`.
        remember_paths: Keep paths and ids in checkpoints. False: arguments that name files or images are left out (pass
            them to `load_from_checkpoint`), and ids are kept as digests, by which splits are still compared.

    Raises:
        HubError: if the dataset cannot be loaded, naming the remedy.
        ExportFormatError: if it was modified since it was published, or is unfinished.

    Warns:
        HubOfflineWarning: if the Hub cannot be reached, and a cached copy is used.
        HubWarning: if a published transform cannot be reproduced here.

    Example:
        >>> dm = HubDataModule("somebody/camelyon16-2um", revision="3f0c...")
        >>> trainer.fit(model, datamodule=dm)
    """

    def __init__(
        self,
        source: str | Path,
        *,
        revision: str | None = None,
        streaming: bool = False,
        lazy: bool | None = None,
        verify: bool = True,
        image_size: int | tuple[int, int] | None = None,
        resize_px: int | Literal["auto", "published"] | None = "published",
        train_transform: Callable[[Any], Any] | None = None,
        eval_transform: Callable[[Any], Any] | None = None,
        dtype: Literal["uint8", "float"] | None = None,
        normalize: Literal["stats", "imagenet", "published"] | None = "published",
        batch_size: int | None = None,
        num_workers: int = 2,
        worker_start: WorkerStart | None = None,
        decode_threads: int | None = None,
        pin_memory: bool | None = None,
        predict_on: Literal["train", "val", "test", "all", "published"] | None = "published",
        sampling: Sampling | None = None,
        stats: ChannelStats | str | Path | None = None,
        leaks: Leaks = "warn",
        leak_checks: Sequence[LeakKind] | None = None,
        config: str | None = None,
        image_column: str | None = None,
        label_column: str | None = None,
        group_column: str | None = None,
        site_column: str | None = None,
        val_fraction: float | None = None,
        seed: int | None = None,
        small_classes: SmallClasses | None = None,
        token: str | bool | None = None,
        endpoint: str | None = None,
        cache_dir: str | Path | None = None,
        allow_changed: Sequence[Setting] = (),
        remember_paths: bool = True,
    ) -> None:
        super().__init__(
            batch_size=1 if batch_size is None else batch_size,
            num_workers=num_workers,
            worker_start=worker_start,
            decode_threads=decode_threads,
            pin_memory=pin_memory,
            predict_on=None if predict_on == "published" else predict_on,
            sampling=sampling or "shuffle",
            stats=stats,
            leaks=leaks,
            leak_checks=leak_checks,
            allow_changed=allow_changed,
            remember_paths=remember_paths,
        )
        self._transforms = {"train_transform": train_transform, "eval_transform": eval_transform}
        self.streaming, self._token = streaming, token
        # A checkpoint holds no secret; and loggers refuse a second `streaming` beside that of models that stream.
        source, cache_dir, stats = map(plain, (source, cache_dir, stats))
        self.keep_arguments("train_transform", "eval_transform", "token", "streaming")

    # -- what was published --------------------------------------------------------------------------------------------

    @property
    def preprocessing(self) -> Preprocessing | None:
        """The manifest: resolution, crop, encoding, versions; None if the dataset was not published by this package."""
        return self._opened.copy.preprocessing

    @property
    def commit(self) -> str | None:
        """The commit of the dataset; None for a folder."""
        return self._opened.copy.commit

    @cached_property
    def _opened(self) -> Opened:
        opened = open_published({**self.arguments, "streaming": self.streaming}, self._token, self._transforms)
        published = opened.copy.preprocessing
        if published is not None and published.stats is not None and "stats" not in self.__dict__:
            self.stats = published.stats
        for name, value in opened.loading.items():
            setattr(self, name, value)
        return opened

    # -- datasets and checks -------------------------------------------------------------------------------------------

    def read_labels(self) -> LabelTable:
        """Download what is missing, and read the table."""
        return self._opened.labels

    def prepare_data(self) -> None:
        """Download what is missing; called by one process per machine."""
        self.read_labels()

    def setup(self, stage: str | None = None) -> None:
        """Download, check, and make the datasets, from the same commit in all processes.

        Raises:
            HubError: if processes found different commits.
        """
        if self.trainer is not None:
            ours = self._opened.copy.pin
            first = self.trainer.strategy.broadcast(ours)
            if (first["commit"], first["digest"]) != (ours["commit"], ours["digest"]):
                raise HubError(
                    f"processes found different commits of '{self.arguments['source']}': {first['commit']} and "
                    f"{ours['commit']}. Pass revision='{first['commit']}'."
                )
        super().setup(stage)

    def check(self) -> None:
        """Compare all images with the published digests, then check them as their own data module does."""
        opened = self._opened
        if self.streaming:
            self._check_streamed()
            return
        rank_zero = self.trainer is None or self.trainer.is_global_zero
        if opened.facts is not None and self.arguments["verify"] and rank_zero:
            with ThreadPoolExecutor(_THREADS) as pool:
                check_images(opened.labels.frame, opened.facts, pool)
        opened.reader.check(self.batch_size)

    def _check_streamed(self) -> None:
        """Check what can be checked without the images: whether batches of them are possible."""
        opened = self._opened
        assert opened.facts is not None
        if opened.reader.image_size is None and None in self._transforms.values() and not self.case_geometry:
            sizes = opened.facts.rename(columns={"height": "height_px", "width": "width_px"})
            check_batchable(sizes.assign(image_id=self.labels.frame["image_id"]), self.batch_size)

    def leak_thumbnail(self, path: str) -> NDArray[np.float64]:
        """An image as it is compared with others."""
        return self._opened.reader.thumbnail(path)

    def compute_stats(self, executor: Executor | None = None, share: str | Path | None = None) -> ChannelStats:
        """The published statistics; those of the training images, where none were published."""
        if self.preprocessing is not None and self.preprocessing.stats is not None:
            return self.preprocessing.stats
        if self.streaming:
            raise SplitError(
                f"'{self.arguments['source']}' was published without channel statistics, and its images are not here. "
                "Pass stats=, or leave out streaming=True."
            )
        return self._opened.reader.channel_stats(self.tables["train"], executor, share)

    def make_dataset(self, part: Part) -> EpochDataset:
        """Images of one split; training images are drawn anew each epoch."""
        samples, opened = self.tables[part], self._opened
        table = slides_of(samples)
        remote = None
        if self.streaming:
            repository, commit, facts = opened.copy.repository, opened.copy.commit, opened.facts
            assert facts is not None
            assert repository is not None
            assert commit is not None
            rows = facts.set_index(opened.labels.frame["image_id"]).loc[table["image_id"]]
            remote = RemoteFiles.of_rows(repository, commit, rows)
        images = opened.reader.make_dataset(table, part, remote)
        return images if table is samples else CaseDataset(samples, images, self.max_slides)

    def normalize_dataset(self, dataset: EpochDataset) -> None:
        """Set the mean and standard deviation, for photos."""
        normalize = self._opened.reader.normalize
        if isinstance(dataset, PhotoDataset) and normalize is not None:
            dataset.normalization = IMAGENET if normalize == "imagenet" else (self.stats.mean, self.stats.std)

    def geometry(self) -> Geometry:
        """That of the data module that was published, with what is requested here in its place."""
        opened = self._opened
        return opened.reader.geometry(opened.copy.preprocessing, self._transforms) | self.case_geometry

    # -- the checkpoint ------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """The memory of every data module, and the commit."""
        return {**super().state_dict(), "hub": self._opened.copy.pin}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Compare with the checkpoint; see `SplitDataModule.load_state_dict`.

        A checkpoint of the data module that was published is accepted too.

        Raises:
            HubError: if training would resume with another commit, or other images.
        """
        if self.trainer is None or self.trainer.state.fn == TrainerFn.FITTING:
            refuse_other_images(state_dict.get("hub") or {}, self._opened.copy)
        super().load_state_dict(state_dict)
