"""The data module of photos, listed in a table or sorted into a folder per class.

    table -> split -> sample -> transform -> batch

as for slides, and by the same modules; only finding, checking and decoding differ.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from wsidata.datamodules.base import Leaks, OnError, Sampling, SplitDataModule, shared_arguments
from wsidata.datamodules.checkpoint import plain
from wsidata.datamodules.geometry import Geometry, Setting, photo_geometry
from wsidata.datasets.epochs import EpochDataset
from wsidata.datasets.loader import WorkerStart
from wsidata.datasets.photos import Normalization, PhotoDataset
from wsidata.photos.cache import DecodedCache
from wsidata.photos.read import read_photo
from wsidata.photos.survey import THREADS, PhotoSurvey, warn_of_placeholders
from wsidata.splits.duplicates import find_duplicates, with_duplicates_grouped
from wsidata.splits.leaks import LeakKind
from wsidata.splits.make import SmallClasses
from wsidata.splits.near_duplicates import photo_thumbnail
from wsidata.splits.split_table import split_table
from wsidata.stats.compute import channel_stats
from wsidata.stats.result import ChannelStats
from wsidata.tables.class_names import LabelNames, check_order, read_label_names
from wsidata.tables.label_table import LabelTable
from wsidata.tables.parts import Part, SplitError
from wsidata.tables.photo_table import Unlisted, match_ids, read_photo_table
from wsidata.tables.targets import Decimal, TimeUnit
from wsidata.tables.text_table import TableError
from wsidata.transforms.adapters.functions import as_transform
from wsidata.transforms.compose import auto_resize_px, default_eval_transform, photo_train_transform
from wsidata.transforms.geometry.crop import check_size
from wsidata.transforms.to_tensor import DType
from wsidata.utils.messages import check_choice

Normalize = Literal["stats", "imagenet"]

CACHE_BYTES = 4 * 1000**3
"""Memory of `cache="memory"`, for each loader."""


IMAGENET: Normalization = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Mean and standard deviation of torchvision's pretrained networks."""


class ImageFolderDataModule(SplitDataModule):
    """Photos: one sample each, with one class, several labels, or numbers.

    Batches of the train, validation and test loaders are `(image, target)`: image (B, 3, H, W), channels-last in
    memory, RGB, uint8 or float in [0, 1], or normalized floats; target as `target` says. The predict loader yields
    images alone.

    A sample's augmentation depends on the seed (`seed_everything`), the epoch and the photo only: not on the number of
    workers or the batch size.

    Args:
        table: CSV, Parquet or DataFrame with a row per photo; or a folder with a folder of photos per class, perhaps
            below folders train, val and test; or, with `label_column=None`, a folder of photos to predict on.
        image_dir: Folder in which, or below which, the photos lie. None: the table's own.
        image_column: Column of file names: with or without suffix, in any case, with or without the folders above.
        label_column: Column of labels, or columns. None: no labels, predict only.
        class_names: Classes in order, or a mapping from labels to them. None: the labels, sorted.
        label_names: Names to show instead of the labels: a table with the columns `label` and `name`, or a mapping. All
            of them are classes, in the labels' order, also those without photos.
        target: "class": (B,) int64. "ordinal": the same, of classes with an order. "multilabel": (B, K) float32 of 0
            and 1, from a column of labels separated by `;` or from K columns of 0 and 1. "regression": (B, K) float32,
            from K columns of numbers. "survival": (B, 3) float32 of time, event (0 or 1) and intervals survived, from
            the columns `[time, event]`. See `targets.read_targets`.
        decimal: Decimal mark of numbers in a table of text, "." or ",".
        time_bins: With "survival": number of intervals of time, which hold about as many events of the training rows
            each; or the ends of the intervals.
        time_unit: With "survival": unit of the times, "days", "weeks", "months" or "years"; has to be told.
        resize_px: Length that the shorter side is resized to when a photo is decoded. "auto": 8/7 of `image_size` (256
            for 224), or as it is if `image_size` is None. None: as it is.
        image_size: Height and width to crop (or pad in white) to, in pixels; one number for a square. None keeps all.
        split: A saved split: a CSV file, or a DataFrame with `image_id` and `split`. The arguments below are then not
            used.
        split_column: Column that predefines train, val or test rows.
        test_ids: Ids, or names, of the test rows.
        test_prefix: What the names of test rows begin with, such as "test_".
        val_ids: Ids, or names, of the validation rows.
        val_prefix: What the names of validation rows begin with.
        group_column: Column of groups that stay together: photos of one animal, place, or series.
        group_duplicates: Look for equal files and near-duplicates before the split is drawn, and keep them in one split
            each; they are in `duplicates`.
        site_column: Column of cameras or places. If given, a site in two splits is a leak.
        val_fraction: Share of the rows that are not predefined to validate on.
        test_fraction: Share of them to test on.
        stratify: Keep the classes in proportion, where each photo has one.
        k_fold: `(i, k)`: validate on fold i (0 .. k-1) of k, instead of on `val_fraction`.
        repeat: 0, 1, ...: redraws validation rows or folds; the test rows stay.
        small_classes: A class too small for every split: "raise", or keep it in "train" and warn.
        seed: Seed of the split, and of nothing else.
        train_transform: One of `wsidata.transforms`, an albumentationsxl Compose, or a callable on pyvips images. None:
            a random crop of `image_size`, flipped left to right every other time. If given, it sets the size.
        eval_transform: The same for validation, test and prediction. None: a center crop of `image_size`.
        dtype: What uint8 pixels become: "uint8" stays, "float" is divided by 255. None: "uint8", or "float" where
            photos are normalized.
        normalize: "stats": minus the mean of the training photos' channels, divided by their standard deviation.
            "imagenet": the same with ImageNet's. None: left to the model.
        apply_icc: Convert colors to sRGB where a file has another color profile, as phones' photos do.
        cache: Keep decoded photos from the first epoch on: "memory" (up to 4 GB for each loader), a number of bytes of
            memory, or a folder, which may be shared. Found by content: a changed file is decoded again. A photo takes
            3 bytes per pixel at the size it is read at. None: decode in every epoch.
        batch_size: Samples per batch (and process).
        num_workers: Worker processes per loader, kept between epochs.
        worker_start: "forkserver" or "spawn". None: a fork server where there is one.
        decode_threads: Tiles of a tiled TIFF that are decoded at a time; see `WSIDataModule`.
        pin_memory: Page-locked batches. None: where there is CUDA.
        predict_on: "train", "val", "test" or "all". None: the test rows, or all rows where there are none.
        sampling: "shuffle" draws every training photo once per epoch. "balanced" draws as many, every class equally
            often; a photo that is drawn twice is augmented twice.
        stats: Channel statistics, or the JSON file they were saved in. None: computed when they are first needed.
        leaks: What to do about groups, files, near-duplicates or sites in two splits: "off" does not look, "warn", or
            "error". Looking decodes every photo small, once, in `setup`.
        leak_checks: What to look for: some of "patient" (of `group_column`), "content", "thumbnail", "site". None: all
            that apply.
        on_error: What to do about photos that are empty, cut off, too large to hold or no photos, as far as their
            headers and ends show: "raise" names them all, before training; "skip" leaves them out of the splits with a
            warning that names them, and keeps them in `skipped`. The split of the others stays.
        decode_check: Look for damaged pixels before training too, by decoding every photo once.
        unlisted: Photos below `image_dir` that no row of the table names: "off", "warn", or "error".
        allow_changed: Settings that may differ from those of a checkpoint's model, such as `["resolution"]`. Without,
            predicting, testing or training with it raises an error that names both values; see `geometry.Setting`.
        remember_paths: Keep paths and ids in checkpoints. False: arguments that name files or images are left out (pass
            them to `load_from_checkpoint`), and ids are kept as digests, by which splits are still compared.
        stage_dir: Folder on a local disk that photos are copied to, ahead of use, and read from; all processes of a
            machine may share it. None: they are read where they are.
        stage_max_bytes: The most that copies take there, such as "200GB"; those not used for the longest time make
            room. None: half of the free disk.
        read_timeout_s: Seconds without a batch from the workers after which an error names what they read, as where a
            mount hangs; more than the slowest batch takes. None waits forever.

    Attributes:
        duplicates: Pairs of equal files and near-duplicates, of `group_duplicates=True`, once the table was read; see
            `splits.duplicates.find_duplicates`.

    Raises:
        TableError, SplitError, TransformError: when made, at first use of the table, or in `setup`; always before
            training starts.

    Example:
        >>> dm = ImageFolderDataModule("labels.csv", "photos", label_column="label", image_size=224, val_fraction=0.25)
        >>> trainer.fit(model, datamodule=dm)
    """

    reads = "photos"

    def __init__(
        self,
        table: str | Path | pd.DataFrame,
        image_dir: str | Path | None = None,
        *,
        image_column: str = "image",
        label_column: str | Sequence[str] | None = "class",
        class_names: Sequence[str] | Mapping[str, int] | Mapping[str, str] | None = None,
        label_names: LabelNames | None = None,
        target: Literal["class", "ordinal", "multilabel", "regression", "survival"] = "class",
        decimal: Decimal = ".",
        time_bins: int | Sequence[float] = 4,
        time_unit: TimeUnit | None = None,
        resize_px: int | Literal["auto"] | None = "auto",
        image_size: int | tuple[int, int] | None = None,
        split: str | Path | pd.DataFrame | None = None,
        split_column: str | None = None,
        test_ids: Sequence[str] | None = None,
        test_prefix: str | None = None,
        val_ids: Sequence[str] | None = None,
        val_prefix: str | None = None,
        group_column: str | None = None,
        group_duplicates: bool = False,
        site_column: str | None = None,
        val_fraction: float = 0.2,
        test_fraction: float = 0.0,
        stratify: bool = True,
        k_fold: tuple[int, int] | None = None,
        repeat: int = 0,
        small_classes: SmallClasses = "raise",
        seed: int = 42,
        train_transform: Callable[[Any], Any] | None = None,
        eval_transform: Callable[[Any], Any] | None = None,
        dtype: Literal["uint8", "float"] | None = None,
        normalize: Normalize | None = None,
        apply_icc: bool = True,
        cache: int | str | Path | None = None,
        batch_size: int = 32,
        num_workers: int = 2,
        worker_start: WorkerStart | None = None,
        decode_threads: int | None = None,
        pin_memory: bool | None = None,
        predict_on: Literal["train", "val", "test", "all"] | None = None,
        sampling: Sampling = "shuffle",
        stats: ChannelStats | str | Path | None = None,
        leaks: Leaks = "warn",
        leak_checks: Sequence[LeakKind] | None = None,
        on_error: OnError = "raise",
        decode_check: bool = False,
        unlisted: Unlisted = "warn",
        allow_changed: Sequence[Setting] = (),
        remember_paths: bool = True,
        stage_dir: str | Path | None = None,
        stage_max_bytes: int | str | None = None,
        read_timeout_s: float | None = None,
    ) -> None:
        super().__init__(**shared_arguments(locals()))
        self.image_size = None if image_size is None else check_size(image_size)
        self.resize_px = length_of_side(resize_px, self.image_size, train_transform is None or eval_transform is None)
        self.normalize, self.dtype = normalize, pixel_type(dtype, normalize)
        self._table, self._split, self._label_names = table, split, label_names
        self.duplicates = pd.DataFrame()
        self._survey = PhotoSurvey(self.resize_px, decode_check)
        self._cache = _decoded_cache(cache, num_workers)
        check_choice("target", target, ("class", "ordinal", "multilabel", "regression", "survival"))
        check_choice("unlisted", unlisted, ("off", "warn", "error"))
        if label_names is not None and (class_names is not None or target in ("regression", "survival")):
            raise ValueError(f"label_names= names the labels of classes: leave out class_names= and target={target!r}.")
        self._sizes_follow_photos = self.image_size is None and (train_transform is None or eval_transform is None)
        self._own_transforms = {"train_transform": train_transform, "eval_transform": eval_transform}
        self._train_transform = as_transform(train_transform or photo_train_transform(self.image_size))
        self._eval_transform = as_transform(eval_transform or default_eval_transform(self.image_size))
        table, stats, label_names, split, image_dir, cache = map(
            plain, (table, stats, label_names, split, image_dir, cache)
        )
        stage_dir = plain(stage_dir)
        self.keep_arguments("train_transform", "eval_transform")

    def read_labels(self) -> LabelTable:
        """Read the table and every photo's header, and split."""
        hparams = self.arguments
        names = self._label_names
        named = None if names is None else read_label_names(names, hparams["label_column"])
        if named and hparams["target"] == "ordinal":
            check_order(list(named))
        columns = ("image_column", "label_column", "target", "decimal", "group_column", "site_column", "split_column")
        labels = read_photo_table(
            self._table,
            hparams["image_dir"],
            inspect=self._survey.look if self.on_error == "raise" else None,
            class_names=hparams["class_names"] if named is None else named,
            unlisted=hparams["unlisted"],
            **{name: hparams[name] for name in columns},
        )
        found: dict[str, Any] = {name: match_ids(hparams[name], labels.frame, name) for name in ("test_ids", "val_ids")}
        if hparams["group_duplicates"]:
            self.duplicates = find_duplicates(labels.frame, photo_thumbnail)
            labels = replace(labels, frame=with_duplicates_grouped(labels.frame, self.duplicates))
            found["group_column"] = "group"
        try:
            return split_table(labels, self._split, {**hparams, **found})
        except SplitError as error:
            if self.duplicates.empty:
                raise
            raise SplitError(
                f"{error} Duplicates are one group, as group_duplicates=True asks (see `duplicates`). Remove the "
                "copies, or leave it out."
            ) from error

    def geometry(self) -> Geometry:
        """Sizes, colors, normalization and transforms."""
        return photo_geometry(
            resize_px=self.resize_px,
            image_size=self.image_size,
            apply_icc=self.arguments["apply_icc"],
            dtype=self.dtype,
            normalize=self.normalize,
            **self._own_transforms,
        )

    def check(self) -> None:
        """Read the table and every photo's header, and compare sizes where batches need one size."""
        rows = self._kept[["image_id", "path"]].to_numpy()
        warn_of_placeholders([*self._kept["path"]])
        if self._sizes_follow_photos and self.batch_size > 1:
            check_one_size({name: self._survey.sizes[path] for name, path in rows})

    def find_unreadable(self) -> dict[str, str]:
        """Photos that cannot be read."""
        frame = self.labels.frame
        self._survey.look([Path(path) for path in frame["path"]])
        problems = self._survey.problems
        return {name: problems[path] for name, path in frame[["image_id", "path"]].to_numpy() if path in problems}

    def leak_thumbnail(self, path: str) -> NDArray[np.float64]:
        """Gray thumbnail of a photo, (32, 32), by which near-duplicates are found."""
        return photo_thumbnail(path)

    def compute_stats(self, executor: Executor | None = None, share: str | Path | None = None) -> ChannelStats:
        """Pooled over all pixels of the training photos, at the size they are read at."""
        if self.tables["train"].empty:
            raise SplitError(
                "there are no training photos to take channel statistics of. Pass stats=, or load the checkpoint of "
                "the training run, which holds them."
            )
        decode = self._read() if executor is None and share is None else read_photo
        read = partial(decode, short_side_px=self.resize_px, apply_icc=self.arguments["apply_icc"])
        with ThreadPoolExecutor(THREADS) if executor is None else nullcontext(executor) as pool:
            return channel_stats(self.tables["train"]["path"], read=read, executor=pool, share=share)

    def _read(self) -> Callable[..., NDArray[np.uint8]]:
        """Function that decodes photos in this process; the memory of workers is not filled here."""
        shared = self._cache is not None and (self._cache.folder is not None or self.num_workers == 0)
        return self._cache.get if self._cache is not None and shared else read_photo

    def make_dataset(self, part: Part) -> PhotoDataset:
        """Photos of one split; training photos are augmented anew each epoch."""
        return PhotoDataset(
            self.tables[part],
            self._train_transform if part == "train" else self._eval_transform,
            resize_px=self.resize_px,
            apply_icc=self.arguments["apply_icc"],
            cache=self._cache,
            dtype=self.dtype,
            with_labels=part != "predict",
            fresh_epochs=part == "train",
            stage=self.stage,
        )

    def normalize_dataset(self, dataset: EpochDataset) -> None:
        """Set the mean and standard deviation."""
        if isinstance(dataset, PhotoDataset):
            dataset.normalization = self._normalization()

    def _normalization(self) -> Normalization | None:
        """Mean and standard deviation to normalize with."""
        if self.normalize is None:
            return None
        return IMAGENET if self.normalize == "imagenet" else (self.stats.mean, self.stats.std)


def length_of_side(
    resize_px: int | Literal["auto"] | None, image_size: tuple[int, int] | None, crops: bool
) -> int | None:
    """Length of the shorter side that photos are resized to; None: as they are."""
    if resize_px == "auto":
        return auto_resize_px(image_size)
    if resize_px is not None and (not isinstance(resize_px, int) or resize_px < 1):
        raise ValueError(f"resize_px={resize_px!r} is neither a number of pixels, nor 'auto', nor None.")
    if resize_px is not None and image_size is not None and crops and resize_px < min(image_size):
        raise ValueError(
            f"resize_px={resize_px} makes photos smaller than image_size={image_size}: all would be padded. Pass at "
            f"least {min(image_size)}, or resize_px='auto'."
        )
    return resize_px


def check_one_size(sizes: Mapping[str, tuple[int, int]]) -> None:
    """Raise `TableError`, naming two, if photos differ in size and so make no batch."""
    first, *others = sizes.items()
    for name, size in others:
        if size != first[1]:
            raise TableError(
                f"photos differ in size ('{first[0]}' is {first[1][0]} x {first[1][1]} px, '{name}' {size[0]} x "
                f"{size[1]}), and without image_size= they keep it. Pass image_size= (crops or pads), or batch_size=1."
            )


def pixel_type(dtype: Literal["uint8", "float"] | None, normalize: str | None) -> DType:
    """Data type of the batches; normalized ones are floats."""
    check_choice("normalize", normalize, ("stats", "imagenet", None))
    check_choice("dtype", dtype, ("uint8", "float", None))
    if dtype == "uint8" and normalize is not None:
        raise ValueError(f"normalize={normalize!r} gives floats. Leave out dtype='uint8'.")
    return dtype or ("uint8" if normalize is None else "float")


def _decoded_cache(cache: int | str | Path | None, num_workers: int) -> DecodedCache | None:
    """The cache of decoded photos; workers of a loader share its memory."""
    if cache is None:
        return None
    if isinstance(cache, int) and cache < 1:
        raise ValueError(f"cache={cache} is neither a number of bytes, nor 'memory', nor a folder, nor None.")
    if cache == "memory":
        cache = CACHE_BYTES
    return DecodedCache(max(1, cache // max(1, num_workers)) if isinstance(cache, int) else cache)
