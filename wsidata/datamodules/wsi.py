"""Lightning DataModule for whole-slide images, from a table and a folder of slides to batches.

    table -> split -> sample -> transform -> batch

Each step is a folder of its own (`tables`, `splits`, `datasets`, `transforms`); here they are joined.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from wsidata.datamodules.base import Leaks, OnError, Sampling, SplitDataModule, shared_arguments
from wsidata.datamodules.checkpoint import plain
from wsidata.datamodules.checks import (
    check_batchable,
    check_one_kind,
    check_spacings,
    check_statistics,
    check_survey,
    check_trained_spacing,
    one_resolution,
    spacing_range,
)
from wsidata.datamodules.geometry import Geometry, Setting, slide_geometry
from wsidata.datamodules.survey import Survey, survey_slides
from wsidata.datasets.cases import CaseDataset
from wsidata.datasets.loader import WorkerStart
from wsidata.datasets.slides import SlideDataset
from wsidata.formats.channels import RGB_NAMES
from wsidata.slides.masks import check_masks, mask_classes, mask_problems, outlined_classes
from wsidata.slides.options import SlideOptions
from wsidata.slides.tissue.crop import TissueCrop, as_crop
from wsidata.slides.tissue.packing import Packing
from wsidata.splits.leaks import LeakKind
from wsidata.splits.make import SmallClasses
from wsidata.splits.near_duplicates import slide_thumbnail
from wsidata.splits.split_table import split_table
from wsidata.stats.compute import channel_stats
from wsidata.stats.result import ChannelStats
from wsidata.tables.find_slides import split_suffix
from wsidata.tables.label_table import LabelTable, read_table, slides_of
from wsidata.tables.parts import SPLITS, Part
from wsidata.tables.targets import Decimal, Target, TimeUnit, mask_class_names
from wsidata.transforms.adapters.functions import as_transform
from wsidata.transforms.compose import default_eval_transform, default_train_transform
from wsidata.transforms.geometry.crop import check_size
from wsidata.utils.messages import check_choice


class WSIDataModule(SplitDataModule):
    """DataModule for whole-slide images, one sample per slide or case, with a class, several labels, numbers or a mask.

    Batches of the train, validation and test loaders are `(image, target)`: image (B, 3, H, W), channels-last in
    memory, RGB, uint8 or float in [0, 1]; the target depends on `target`. The predict loader yields images alone.
    Normalization is left to the model. With `case_column` a sample is a list of the images of all slides of a case, and
    a batch a list of such lists, for models that pool several images as one.

    A sample's augmentation depends only on the seed (`seed_everything`), the epoch and the slide, not on the number of
    workers or the batch size.

    Args:
        table: CSV, Parquet or DataFrame with a row per slide, or a folder of class folders; see `read_table`.
        image_dir: Folder of the slides; or an address, such as "s3://bucket/slides", below which all of them are. None:
            the table's own.
        image_column: Column of slide names, with or without suffix.
        label_column: Column of labels, or columns. None: no labels, prediction only.
        class_names: Classes in order, or a mapping from labels to them. None: the labels, sorted.
        target: "class": (B,) int64. "ordinal": the same, of classes with an order. "multilabel": (B, K) float32 of 0
            and 1, from a column of labels separated by `;` or from K columns of 0 and 1. "regression": (B, K) float32,
            from K columns of numbers. "mask": (B, H, W) int64 on the image's grid, from a column of names of masks
            or annotations; -100 for no class.
            "survival": (B, 3) float32 of time, event (0 or 1) and intervals survived, from the columns `[time, event]`.
            See `targets.read_targets`.
        decimal: Decimal mark of numbers in a table of text, "." or ",".
        time_bins: With "survival": number of intervals of time, which hold about as many events of the training rows
            each; or the ends of the intervals.
        time_unit: With "survival": unit of the times, "days", "weeks", "months" or "years"; has to be told.
        mask_dir: Folder of the masks, or of the annotations that they are drawn from. None: `image_dir`.
        mask_values: Pixel value of each class in the masks. None: 0, 1, ...
        outline_classes: Class of each class of outlines in annotations, such as `{"_0": "tumor", "_1": "tumor"}`; None
            for pixels that do not count. Where they overlap, the one named last lies on top; what none covers is of the
            first of `class_names`. None: they are named as the classes.
        level: Pyramid level to read (0 is the finest); or
        mpp: resolution to read at, um per pixel; or
        magnification: objective power to read at; or
        downsample: level-0 pixels per pixel; or
        max_side: longest side in pixels. Exactly one of the five.
        image_size: Height and width to crop or pad (white) to, in pixels; one number for a square. None keeps sizes.
        split: A saved split: a CSV file, or a DataFrame with `image_id` and `split`. The arguments below are then not
            used.
        split_column: Column that predefines train, val or test rows.
        test_ids: Ids of the test rows; with `case_column` these, and all that follow, are cases.
        test_prefix: Prefix of the names of test rows, such as "test_".
        val_ids: Ids of the validation rows.
        val_prefix: Prefix of the names of validation rows.
        group_column: Column of patients, each of which stays in one split.
        site_column: Column of centers or scanners. If given, a site in two splits is a leak.
        case_column: Column of cases, such as patients, whose slides are one sample, in the order of the table. All rows
            of a case have one label, group and split. None: every slide is a sample.
        max_slides: The most slides of a case: drawn anew each epoch in training, else the first. None: all.
        val_fraction: Fraction of the rows that are not predefined to validate on.
        test_fraction: Fraction of them to test on.
        stratify: Keep the class proportions, where each slide has one class.
        k_fold: `(i, k)`: validate on fold i (0 .. k-1) of k, instead of on `val_fraction`.
        repeat: 0, 1, ...: redraw validation rows or folds; the test rows stay.
        small_classes: For a class too small to be in every split: "raise", or keep it in "train" and warn.
        seed: Seed of the split, and of nothing else.
        train_transform: One of `wsidata.transforms`, an albumentationsxl Compose, or a callable on pyvips images. None:
            crop or pad to `image_size` and one of the eight symmetries of the square. If given, it sets the size.
        eval_transform: The same for validation, test and prediction. None: crop or pad to `image_size`.
        dtype: What uint8 pixels become: "uint8" stays, "float" is divided by 255 (16-bit ones by 65535). A transform's
            floats stay floats.
        batch_size: Samples per batch (and process).
        num_workers: Worker processes per loader, kept between epochs.
        worker_start: "forkserver" or "spawn". None: a fork server where there is one.
        decode_threads: Tiles of a slide that are decoded at a time, by each worker or this process, if it is read from
            32 tiles or more. None: one in workers; without workers, and for rows of `lazy` images, one per processor.
        mpp_override: um per pixel of level 0 to use instead of the files' own, one number or (x, y).
        channels: Numbers or names of the channels to read, such as `["DAPI", 3]`: images are then (B, C, H, W), and 0,
            not white, outside a slide. None: RGB. "rgb": three channels of unstated colors are red, green and blue.
        scale_to_8bit: `(low, high)`, the stored values that become 0 and 255, for samples of more than 8 bits. Without
            it 16-bit channels need `dtype="float"`.
        apply_icc: Convert the scanners' colors to sRGB, where a file has a color profile.
        series: Number of the image to read, from 0, of files with several. None: the one that is the slide.
        z: Number of the focal plane, from 0, of stacks. None: there is only one.
        t: Number of the point in time, likewise.
        on_error: What to do about slides (or masks) that cannot be read as requested, by their headers, or have no
            tissue to crop to: "raise" names them all, before training; "skip" leaves them out with a warning that names
            them and counts what each split and class loses, and keeps them in `skipped`. The split of the others stays.
        pin_memory: Page-locked batches. None: where there is CUDA.
        predict_on: "train", "val", "test" or "all". None: the test rows, or all rows where there are none.
        sampling: "shuffle" draws every training slide once per epoch. "balanced" draws as many, every class equally
            often; a slide that is drawn twice is augmented twice.
        stats: Channel statistics, or the JSON file they were saved in. None: computed on first use of `stats`.
        leaks: What to do about patients, files, near-duplicates or sites in two splits: "off" (no check), "warn", or
            "error". The check reads a thumbnail of every slide, once, in `setup`.
        leak_checks: Which leaks to check for: some of "patient", "content", "thumbnail", "site". None: all that apply.
        lazy: Images are not decoded by the loader: a batch is a list of `LazyImage`s (and one of `LazyMask`s), whose
            rows are decoded when the model requests them. For models that stream, and slides that do not fit into
            memory.
        crop: Crop before the transforms: None reads whole slides, "tissue" the bounding box of the tissue, "pack" its
            pieces close together on white; a `TissueCrop` has more settings.
        allow_changed: Settings that may differ from those of a checkpoint's model, such as `["resolution"]`. Without,
            predicting, testing or training with it raises an error that names both values; see `geometry.Setting`.
        remember_paths: Keep paths and ids in checkpoints. False: arguments that name files or images are left out (pass
            them to `load_from_checkpoint`), and ids are kept as digests, by which splits are still compared.
        stage_dir: Folder on a local disk that slides are copied to, ahead of use, and read from; all processes of a
            machine may share it. None: they are read where they are.
        stage_max_bytes: The most that copies take there, such as "200GB"; those not used for the longest time make
            room. None: half of the free disk.
        read_timeout_s: Seconds without a batch from the workers after which an error names what they read, as where a
            mount hangs; more than the slowest batch takes. None waits forever.

    Raises:
        TableError, SplitError, SlideCheckError, TransformError: in the constructor, on first use of the table, or in
            `setup`; always before training starts.

    Example:
        >>> dm = WSIDataModule(table="reference.csv", image_dir="images", test_prefix="test_", level=5, image_size=4096)
        >>> trainer.fit(model, datamodule=dm)
    """

    reads = "slides"

    def __init__(
        self,
        table: str | Path | pd.DataFrame,
        image_dir: str | Path | None = None,
        *,
        image_column: str = "image",
        label_column: str | Sequence[str] | None = "class",
        class_names: Sequence[str] | Mapping[str, int] | Mapping[str, str] | None = None,
        target: Target = "class",
        decimal: Decimal = ".",
        time_bins: int | Sequence[float] = 4,
        time_unit: TimeUnit | None = None,
        mask_dir: str | Path | None = None,
        mask_values: Sequence[int] | None = None,
        outline_classes: Mapping[str, str | None] | None = None,
        level: int | None = None,
        mpp: float | None = None,
        magnification: float | None = None,
        downsample: float | None = None,
        max_side: int | None = None,
        image_size: int | tuple[int, int] | None = None,
        split: str | Path | pd.DataFrame | None = None,
        split_column: str | None = None,
        test_ids: Sequence[str] | None = None,
        test_prefix: str | None = None,
        val_ids: Sequence[str] | None = None,
        val_prefix: str | None = None,
        group_column: str | None = None,
        site_column: str | None = None,
        case_column: str | None = None,
        max_slides: int | None = None,
        val_fraction: float = 0.2,
        test_fraction: float = 0.0,
        stratify: bool = True,
        k_fold: tuple[int, int] | None = None,
        repeat: int = 0,
        small_classes: SmallClasses = "raise",
        seed: int = 42,
        train_transform: Callable[[Any], Any] | None = None,
        eval_transform: Callable[[Any], Any] | None = None,
        dtype: Literal["uint8", "float"] = "uint8",
        batch_size: int = 1,
        num_workers: int = 2,
        worker_start: WorkerStart | None = None,
        decode_threads: int | None = None,
        mpp_override: float | tuple[float, float] | None = None,
        channels: Sequence[int | str] | int | str | None = None,
        scale_to_8bit: tuple[float, float] | None = None,
        apply_icc: bool = False,
        series: int | None = None,
        z: int | None = None,
        t: int | None = None,
        on_error: OnError = "raise",
        pin_memory: bool | None = None,
        predict_on: Literal["train", "val", "test", "all"] | None = None,
        sampling: Sampling = "shuffle",
        stats: ChannelStats | str | Path | None = None,
        leaks: Leaks = "warn",
        leak_checks: Sequence[LeakKind] | None = None,
        lazy: bool = False,
        crop: Literal["tissue", "pack"] | TissueCrop | None = None,
        allow_changed: Sequence[Setting] = (),
        remember_paths: bool = True,
        stage_dir: str | Path | None = None,
        stage_max_bytes: int | str | None = None,
        read_timeout_s: float | None = None,
    ) -> None:
        super().__init__(**shared_arguments(locals()))
        self.resolution = one_resolution(
            level=level, mpp=mpp, magnification=magnification, downsample=downsample, max_side=max_side
        )
        self.image_size = None if image_size is None else check_size(image_size)
        check_choice("dtype", dtype, ("uint8", "float"))
        self._table, self._split = table, split
        self._options = SlideOptions(mpp_override, channels, scale_to_8bit, apply_icc, series, z, t)
        self._lazy, self._crop = lazy, as_crop(crop)
        is_count = isinstance(max_slides, int) and not isinstance(max_slides, bool) and max_slides >= 1
        if max_slides is not None and (case_column is None or not is_count):
            raise ValueError(f"max_slides={max_slides!r} is the most slides of a case: at least 1, with case_column=.")
        self.max_slides = max_slides
        self._packings: dict[str, Packing] = {}
        self._checked_sizes: pd.DataFrame | None = None
        self._options.check_crop(self._crop)
        self._sizes_follow_slides = (
            image_size is None and train_transform is None and eval_transform is None and not lazy and not case_column
        )
        if self._sizes_follow_slides and self._crop is not None and batch_size > 1:
            raise ValueError(
                f"batch_size={batch_size} needs images of one size, and cropped to their tissue slides differ. Pass "
                "image_size= (crops or pads in white), lazy=True (batches are lists), or batch_size=1."
            )
        self._own_transforms = {"train_transform": train_transform, "eval_transform": eval_transform}
        self._train_transform = as_transform(train_transform or default_train_transform(self.image_size))
        self._eval_transform = as_transform(eval_transform or default_eval_transform(self.image_size))
        self._mask_classes: dict[Any, int] | None = None
        if target == "mask":
            names = mask_class_names(class_names or ("?",))
            self._mask_classes = {**mask_classes(len(names), mask_values), **outlined_classes(names, outline_classes)}
        table, stats, split, image_dir, mask_dir = map(plain, (table, stats, split, image_dir, mask_dir))
        stage_dir = plain(stage_dir)
        if case_column is None:  # names of cases are no names of files
            test_ids, val_ids = _without_suffix(test_ids), _without_suffix(val_ids)
        else:
            test_ids, val_ids = _stripped(test_ids), _stripped(val_ids)
        self.keep_arguments("train_transform", "eval_transform")

    def read_labels(self) -> LabelTable:
        """Read the table and split it."""
        names = ["image_dir", "image_column", "label_column", "target", "decimal", "class_names", "mask_dir"]
        names += ["group_column", "site_column", "split_column", "case_column"]
        labels = read_table(self._table, **{name: self.arguments[name] for name in names})
        return split_table(labels, self._split, self.arguments)

    def check(self) -> None:
        """Check every slide, and every mask, by its header, and plan the crops."""
        sizes = self._survey.sizes
        if self.on_error == "skip":
            sizes = sizes[sizes["image_id"].isin(self._kept["image_id"])]
        else:
            survey = self.__dict__.pop("_survey")  # files may be repaired before the next call
            check_survey(survey, self.resolution)
            if "mask" in self.labels.frame.columns:
                check_masks(self.labels.frame, self._options, survey.level_0, self._mask_classes)
            self._survey = survey
        self._packings = dict(zip(sizes["image_id"], sizes["packing"], strict=True))
        check_one_kind(sizes, self.arguments["dtype"])
        check_spacings(sizes, self.resolution)
        self._checked_sizes = sizes
        if "stats" in self.__dict__:  # they are known
            self.check_stats(self.stats)
        if self._sizes_follow_slides:
            check_batchable(sizes, self.batch_size)

    def geometry(self) -> Geometry:
        """Resolution, crop, channels, colors, size and transforms."""
        of_slides = slide_geometry(
            self.resolution,
            self._options,
            self._crop,
            image_size=self.image_size,
            dtype=self.arguments["dtype"],
            **self._own_transforms,
        )
        return of_slides | self.case_geometry

    def check_stats(self, stats: ChannelStats) -> None:
        """Check that statistics are of slides read in the same way."""
        crop = None if self._crop is None else self._crop.kind
        channels = self._options.request.channels
        names = RGB_NAMES if channels is None else tuple(map(str, channels))
        check_statistics(stats, self.resolution, crop, names, self._options.reading, self.allow_changed)

    def spacing(self) -> list[float] | None:
        """The least and the largest um per pixel of the training slides; None if they state none, or with `mpp=`."""
        sizes = self._checked_sizes
        if sizes is None:
            return None
        trained = slides_of(self.tables["train"])["image_id"]
        return spacing_range(sizes[sizes["image_id"].isin(trained)], self.resolution)

    def compare_spacing(self, trained: Sequence[float] | None) -> None:
        """Warn of slides whose um per pixel are not those of a checkpoint's training slides."""
        if self._checked_sizes is not None and "resolution" not in self.allow_changed:
            check_trained_spacing(self._checked_sizes, self.resolution, trained)

    def find_unreadable(self) -> dict[str, str]:
        """Slides, and masks, that cannot be read as requested."""
        frame = self.labels.frame
        survey = self._survey
        if "mask" not in frame.columns:
            return survey.problems
        masks = mask_problems(frame, self._options, survey.level_0, self._mask_classes)
        return masks | survey.problems

    @cached_property
    def _survey(self) -> Survey:
        frame, is_first = self.labels.frame, self.trainer is None or self.trainer.is_global_zero
        compared = frame.loc[frame["split"].isin(SPLITS), "path"] if is_first and self.compares_thumbnails else ()
        return survey_slides(frame, self.resolution, self._options, self._crop, thumbnails=compared, quiet=not is_first)

    def leak_thumbnail(self, path: str) -> NDArray[np.float64]:
        """Thumbnail of a slide for near-duplicate detection, of the channels that are read."""
        found = self._survey.thumbnails.pop(path, None) if "_survey" in self.__dict__ else None
        return slide_thumbnail(path, self._options) if found is None else found

    def compute_stats(self, executor: Executor | None = None, share: str | Path | None = None) -> ChannelStats:
        """Channel statistics of all pixels of the training slides, at the resolution and crop they are read with."""
        how: dict[str, Any] = {"executor": executor, "share": share, **vars(self._options), **self.resolution}
        return channel_stats(slides_of(self.tables["train"])["path"], crop=self._crop, **how)

    def make_dataset(self, part: Part) -> SlideDataset | CaseDataset:
        """Dataset of one split; training slides are augmented differently in each epoch."""
        samples = self.tables[part]
        slides = SlideDataset(
            slides_of(samples),
            self.resolution,
            self._train_transform if part == "train" else self._eval_transform,
            dtype=self.arguments["dtype"],
            with_labels=part != "predict",
            options=self._options,
            fresh_epochs=part == "train",
            lazy=self._lazy,
            crop=self._crop,
            packings=self._packings,
            mask_classes=self._mask_classes,
            stage=self.stage,
        )
        return slides if self.arguments["case_column"] is None else CaseDataset(samples, slides, self.max_slides)


def _stripped(names: Sequence[str] | None) -> list[str] | None:
    """Names without blanks around them."""
    return None if names is None else [str(name).strip() for name in names]


def _without_suffix(names: Sequence[str] | None) -> list[str] | None:
    """Names without their file suffix, as in the table."""
    return None if names is None else [split_suffix(name)[0] for name in _stripped(names) or ()]
