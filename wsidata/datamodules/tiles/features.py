"""Lightning DataModule of bags of features, with table, splits and checks of the other ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from matplotlib.figure import Figure

from wsidata.datamodules.base import Leaks, OnError, Sampling, SplitDataModule
from wsidata.datamodules.checkpoint import plain
from wsidata.datamodules.checks import SlideCheckError
from wsidata.datamodules.geometry import Geometry, Setting
from wsidata.datasets.features import FeatureBagDataset
from wsidata.datasets.loader import WorkerStart
from wsidata.splits.leaks import LeakKind
from wsidata.splits.make import SmallClasses
from wsidata.splits.split_table import split_table
from wsidata.stats.result import ChannelStats
from wsidata.tables.find_slides import FeatureFolder
from wsidata.tables.label_table import LabelTable, read_table
from wsidata.tables.parts import Part
from wsidata.tables.targets import Decimal, Target, TimeUnit
from wsidata.tiles.features import feature_facts
from wsidata.utils.messages import describe_problems

ALIKE = ("encoder", "encoder_digest", "precision", "resolution", "patch_size", "overlap", "target_magnification")
"""Attributes of feature files that have to be the same for all slides of a model, as far as files state them."""


class FeatureBagDataModule(SplitDataModule):
    """DataModule of bags, the features of the tiles of one slide each, from files of `slidestream features` or TRIDENT.

    Batches of the train, validation and test loaders are `(list of (N, F) float32, targets)`; the predict loader yields
    the list alone. A sample is a slide, or a case: table, splits, folds, checks for leaks between splits (patients,
    files, sites) and checkpoints are those of `WSIDataModule`, and so are the arguments that are not listed here.

    Args:
        table: As for `WSIDataModule`; names are those of slides or of feature files.
        feature_dir: Folder of the feature files (.h5), with the slides' names. None: the table's own.
        max_tiles: The most tiles of a bag: drawn anew each epoch in training, else spread evenly. None: all.
        image_column: Column of names.
        label_column: Column of labels, or columns. None: no labels, prediction only.
        class_names: Classes in order, or a mapping.
        target: Kind of the targets; not "mask".
        decimal: Decimal mark of numbers.
        time_bins: With "survival": number of intervals of time, or their ends.
        time_unit: With "survival": unit of the times, "days", "weeks", "months" or "years".
        split: A saved split.
        split_column: Column that predefines train, val or test rows.
        test_ids: Ids of the test rows.
        test_prefix: Prefix of the names of test rows.
        val_ids: Ids of the validation rows.
        val_prefix: Prefix of the names of validation rows.
        group_column: Column of patients.
        case_column: Column of cases, whose slides are one bag of all their tiles, in the order of the table.
        site_column: Column of centers or scanners.
        val_fraction: Fraction to validate on.
        test_fraction: Fraction to test on.
        stratify: Keep the class proportions.
        k_fold: `(i, k)`: validate on fold i of k.
        repeat: Redraws validation rows or folds.
        small_classes: "raise", or keep them in "train".
        seed: Seed of the split.
        batch_size: Bags per batch.
        num_workers: Worker processes per loader.
        worker_start: "forkserver" or "spawn".
        on_error: "raise" names files that cannot be read, before training; "skip" leaves them out.
        pin_memory: Page-locked batches. None: where there is CUDA.
        predict_on: "train", "val", "test" or "all".
        sampling: "shuffle", or "balanced" classes.
        leaks: "off", "warn" or "error".
        leak_checks: Some of "patient", "content", "site". None: all that apply.
        allow_changed: Settings that may differ from those of a checkpoint's model: `["features"]`.
        remember_paths: Keep paths and ids in checkpoints.
        read_timeout_s: Seconds without a batch from the workers after which an error names what they read.

    Raises:
        TableError, SplitError, SlideCheckError: before training starts, also for files of different encoders.

    Example:
        >>> dm = FeatureBagDataModule("slides.csv", "features", group_column="patient")
        >>> trainer.fit(MILClassifier(features=dm.feature_count, num_classes=dm.num_classes), datamodule=dm)
    """

    reads = "features"

    def __init__(
        self,
        table: str | Path | pd.DataFrame,
        feature_dir: str | Path | None = None,
        *,
        max_tiles: int | None = None,
        image_column: str = "image",
        label_column: str | Sequence[str] | None = "class",
        class_names: Sequence[str] | Mapping[str, int] | Mapping[str, str] | None = None,
        target: Target = "class",
        decimal: Decimal = ".",
        time_bins: int | Sequence[float] = 4,
        time_unit: TimeUnit | None = None,
        split: str | Path | pd.DataFrame | None = None,
        split_column: str | None = None,
        test_ids: Sequence[str] | None = None,
        test_prefix: str | None = None,
        val_ids: Sequence[str] | None = None,
        val_prefix: str | None = None,
        group_column: str | None = None,
        case_column: str | None = None,
        site_column: str | None = None,
        val_fraction: float = 0.2,
        test_fraction: float = 0.0,
        stratify: bool = True,
        k_fold: tuple[int, int] | None = None,
        repeat: int = 0,
        small_classes: SmallClasses = "raise",
        seed: int = 42,
        batch_size: int = 1,
        num_workers: int = 0,
        worker_start: WorkerStart | None = None,
        on_error: OnError = "raise",
        pin_memory: bool | None = None,
        predict_on: Literal["train", "val", "test", "all"] | None = None,
        sampling: Sampling = "shuffle",
        leaks: Leaks = "warn",
        leak_checks: Sequence[LeakKind] | None = None,
        allow_changed: Sequence[Setting] = (),
        remember_paths: bool = True,
        read_timeout_s: float | None = None,
    ) -> None:
        if target == "mask":
            raise ValueError("target='mask' needs images: bags of features have one target each.")
        if max_tiles is not None and max_tiles < 1:
            raise ValueError(f"max_tiles={max_tiles} is the most tiles of a bag, and at least 1.")
        if leak_checks is not None and "thumbnail" in leak_checks:
            raise ValueError("leak_checks= of features are some of 'patient', 'content', 'site': there are no images.")
        all_checks: list[LeakKind] = ["content"]
        all_checks += [] if group_column is None else ["patient"]
        all_checks += [] if site_column is None else ["site"]
        super().__init__(
            batch_size=batch_size, num_workers=num_workers, worker_start=worker_start, pin_memory=pin_memory,
            predict_on=predict_on, sampling=sampling, leaks=leaks, on_error=on_error, allow_changed=allow_changed,
            leak_checks=all_checks if leak_checks is None else leak_checks, remember_paths=remember_paths,
            read_timeout_s=read_timeout_s,
        )  # fmt: skip
        self._table, self._split, self.max_tiles = table, split, max_tiles
        table, split, feature_dir = map(plain, (table, split, feature_dir))
        self.keep_arguments()

    def read_labels(self) -> LabelTable:
        """Read the table, find the files, and split."""
        names = ["image_column", "label_column", "target", "decimal", "class_names"]
        names += ["group_column", "site_column", "split_column", "case_column"]
        labels = read_table(
            self._table, self.arguments["feature_dir"], folder_type=FeatureFolder,
            **{name: self.arguments[name] for name in names},
        )  # fmt: skip
        return split_table(labels, self._split, self.arguments)

    def check(self) -> None:
        """Check every file, by its header, and that all are of one encoder.

        Raises:
            SlideCheckError: naming each file.
        """
        problems = list(self._surveyed[1].values()) if self.on_error == "raise" else []
        if problems:
            remedy = "Encode these slides again (slidestream features), or go on without them with on_error='skip'."
            raise SlideCheckError(describe_problems("feature files", problems, remedy))

    def find_unreadable(self) -> dict[str, str]:
        """Files that hold no features, or those of another encoder than the first."""
        return self._surveyed[1]

    @property
    def feature_count(self) -> int:
        """Features of a tile, F."""
        return int(self._surveyed[0]["count"])

    @cached_property
    def _surveyed(self) -> tuple[dict[str, Any], dict[str, str]]:
        """How the tiles of all files were read and encoded, and why some files cannot be used, by `image_id`."""
        first: tuple[dict[str, Any], str] | None = None
        problems: dict[str, str] = {}
        for name, path in self.labels.frame[["image_id", "path"]].itertuples(index=False):
            try:
                (tiles, count), attributes = feature_facts(path)
            except (ValueError, OSError) as error:
                problems[name] = f"{path}: {type(error).__name__}: {error}"
                continue
            facts = {"count": int(count), **{one: attributes[one] for one in ALIKE if one in attributes}}
            first = (facts, path) if first is None else first
            if not tiles:
                problems[name] = f"{path}: has no tiles"
            elif facts != first[0]:
                problems[name] = f"{path}: is of {facts}, and '{first[1]}' of {first[0]}"
        return ({} if first is None else first[0]), problems

    def geometry(self) -> Geometry:
        """The encoder, and how its tiles were read."""
        return {"kind": "features", "features": self._surveyed[0], "eval_transform": None, **self.case_geometry}

    def make_dataset(self, part: Part) -> FeatureBagDataset:
        """Dataset of one split."""
        is_train = part == "train"
        return FeatureBagDataset(
            self.tables[part], with_labels=part != "predict", fresh_epochs=is_train, max_tiles=self.max_tiles
        )

    def compute_stats(self, executor: Executor | None = None, share: str | Path | None = None) -> ChannelStats:
        """Refused: features are no pixels.

        Raises:
            ValueError: always.
        """
        raise ValueError("features have no channel statistics. Normalize them in the model, such as by nn.LayerNorm.")

    def show_batch(self, *_: Any, **__: Any) -> Figure:
        """Refused: features cannot be shown.

        Raises:
            ValueError: always.
        """
        raise ValueError("features cannot be shown. Show the tiles with TileDataModule.show_batch.")
