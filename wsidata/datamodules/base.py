"""Base class of the data modules, with loaders of every split and a split in checkpoints.

A subclass reads a table (`read_labels`), checks it (`check`), makes a dataset of each split (`make_dataset`), computes
channel statistics (`compute_stats`) and says how images are read (`geometry`).
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import nullcontext
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, get_args

import numpy as np
import pandas as pd
import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.trainer.states import TrainerFn, TrainerStatus
from lightning.pytorch.utilities import rank_zero_warn
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from wsidata.datamodules.checkpoint import (
    NAMING,
    OBJECTS,
    check_remembered_bins,
    check_remembered_classes,
    check_remembered_split,
    plain_values,
    read_memory,
    remember,
    remembered_stats,
    warn_of_trained,
)
from wsidata.datamodules.geometry import Geometry, GeometryWarning, Setting, check_allowed, check_geometry
from wsidata.datamodules.restore import (
    Images,
    as_table,
    kept_arguments,
    label_arguments,
    reading_arguments,
    recall,
    refuse_other_kind,
    refuse_tiles,
)
from wsidata.datamodules.show_batch import draw_samples
from wsidata.datasets.cases import CaseDataset
from wsidata.datasets.epochs import EpochDataset
from wsidata.datasets.loader import EpochLoader, WorkerStart, check_worker_start, make_loader
from wsidata.datasets.sampler import share_of_process
from wsidata.remote.address import shown
from wsidata.splits.leaks import LeakKind, LeakReport, check_leaks
from wsidata.splits.near_duplicates import slide_thumbnail
from wsidata.splits.split_file import save_splits, save_splits_beside, split_digest
from wsidata.splits.time_bins import TimeBins, check_time_bins, find_time_bins, with_intervals
from wsidata.splits.unreadable import SkipWarning, check_skipped, describe_skipped, skipped_rows, without_skipped
from wsidata.staging.copying import count_bytes
from wsidata.stats.class_weights import class_weights
from wsidata.stats.result import ChannelStats
from wsidata.tables.label_table import LabelTable, by_case, slides_of
from wsidata.tables.parts import SPLITS, Part, SplitError
from wsidata.tables.targets import ONE_CLASS, Target
from wsidata.utils.messages import check_choice, name_some

if TYPE_CHECKING:
    from wsidata.staging.stage import Stage

OnError = Literal["raise", "skip"]
Sampling = Literal["shuffle", "balanced"]
Leaks = Literal["off", "warn", "error"]

_THREADS = 4


class SplitDataModule(LightningDataModule, ABC):
    """Train, validation, test and predict loaders of one table with a split; for the arguments see `WSIDataModule`."""

    reads: ClassVar[Literal["slides", "photos", "features"] | None] = None
    """The kind of images; None for those of a published dataset, whatever they are."""

    kept_arguments: ClassVar[tuple[str, ...]] = ()
    """Arguments that `from_checkpoint` takes from the checkpoint as they are."""

    def __init__(
        self,
        *,
        batch_size: int,
        num_workers: int,
        worker_start: WorkerStart | None = None,
        decode_threads: int | None = None,
        pin_memory: bool | None,
        predict_on: Literal["train", "val", "test", "all"] | None,
        sampling: Sampling = "shuffle",
        stats: ChannelStats | str | Path | None = None,
        leaks: Leaks = "warn",
        leak_checks: Sequence[LeakKind] | None = None,
        on_error: OnError = "raise",
        allow_changed: Sequence[Setting] = (),
        remember_paths: bool = True,
        stage_dir: str | Path | None = None,
        stage_max_bytes: int | str | None = None,
        read_timeout_s: float | None = None,
    ) -> None:
        super().__init__()
        check_choice("on_error", on_error, ("raise", "skip"))
        check_choice("predict_on", predict_on, (*SPLITS, "all", None))
        check_choice("sampling", sampling, ("shuffle", "balanced"))
        check_choice("leaks", leaks, ("off", "warn", "error"))
        if batch_size < 1 or num_workers < 0:
            raise ValueError(f"batch_size={batch_size} must be at least 1, and num_workers={num_workers} at least 0.")
        self.batch_size, self.num_workers = batch_size, num_workers
        if decode_threads is not None and (not isinstance(decode_threads, int) or decode_threads < 1):
            raise ValueError(f"decode_threads={decode_threads!r} must be a number of at least 1, or None.")
        self.decode_threads = decode_threads
        self.worker_start = check_worker_start(worker_start) if num_workers else None
        self.pin_memory = torch.cuda.is_available() if pin_memory is None else pin_memory
        self.predict_on, self.sampling = predict_on, sampling
        self.leaks, self.leak_checks, self.on_error = leaks, leak_checks, on_error
        if stats is not None:  # takes the place of the cached property
            self.stats = stats if isinstance(stats, ChannelStats) else ChannelStats.load(stats)
        self.allow_changed = check_allowed(allow_changed)
        self.datasets: dict[str, EpochDataset] = {}
        self.leak_report: LeakReport | None = None  # of `setup`, in the first process
        self.max_slides: int | None = None  # of a case
        self._run_seed = 0
        self.remember_paths = remember_paths
        if stage_max_bytes is not None:
            if stage_dir is None:
                raise ValueError(
                    "stage_max_bytes= is the limit of stage_dir=, which is missing. Pass both, or neither."
                )
            count_bytes(stage_max_bytes)
        self._stage = stage_dir, stage_max_bytes
        if read_timeout_s is not None and read_timeout_s <= 0:
            raise ValueError(f"read_timeout_s={read_timeout_s} must be more than 0, or None to wait forever.")
        self.read_timeout_s = read_timeout_s
        self._remembered_classes: tuple[str, ...] = ()
        self._remembered_target: Target | None = None
        self._is_restored = False
        self._trained_mpp: Sequence[float] | None = None
        self._choose_rows: Callable[[], Sequence[Sequence[int]]] | None = None
        self._compared_with: Any = None  # path of the checkpoint whose state was loaded last

    @classmethod
    def from_checkpoint(
        cls,
        checkpoint: str | Path | Mapping[str, Any],
        images: Images,
        image_dir: str | Path | None = None,
        **changed: Any,
    ) -> Self:
        """Data module that reads new images exactly as those of a checkpoint's run were read.

        Resolution, crop, channels, colors, sizes, normalization with its statistics, and the transform of evaluation
        are the checkpoint's, whatever data module wrote it, and so are the class names. Labels are not needed. All
        images are predicted on; with `label_column=` all are test images.

        Args:
            checkpoint: A checkpoint that Lightning wrote, or its content.
            images: Table, folder of images at any depth, or list of files; of slides also of addresses.
            image_dir: Folder of the images of a table. None: the table's own.
            **changed: Arguments of this class. Those that say how images are read must be the checkpoint's, unless
                `allow_changed` names them.

        Raises:
            GeometryError: if images would be read otherwise, or the checkpoint does not say how (old ones do not).
            ValueError: if the file is no checkpoint of a run with a data module of this package.

        Warns:
            LeakWarning: if images with labels, or cases, are those that the model was trained on.

        Example:
            >>> dm = WSIDataModule.from_checkpoint("best.ckpt", "new_slides")
            >>> predictions = Trainer().predict(model, datamodule=dm)
        """
        if cls.reads is not None and "table" not in inspect.signature(cls).parameters:
            of = "WSIDataModule" if cls.reads == "slides" else "ImageFolderDataModule"
            raise TypeError(f"{cls.__name__} reads one dataset. For new images use {of}.from_checkpoint.")
        memory, trained = recall(checkpoint)
        refuse_tiles(trained, cls.kept_arguments, changed.get("allow_changed", ()))
        table, image_dir = as_table(images, image_dir, changed.get("image_column", "image"))
        arguments = {
            "predict_on": "all",
            "leaks": "off",
            **kept_arguments(cls.kept_arguments, memory, trained, changed),
            **reading_arguments(memory, cls.reads, changed),
            **({} if cls.reads is None else label_arguments(images, memory, trained, changed)),
        }
        if cls.reads == "photos" and table is not images:  # a list: the others in its folder were not asked for
            arguments["unlisted"] = "off"
        if changed.get("case_column") is not None and trained.get("max_slides") is not None:
            arguments["max_slides"] = trained["max_slides"]
        arguments |= changed
        module = cls(*([table] if image_dir is None else [table, image_dir]), **arguments)
        module._take({"target": trained.get("target"), **memory})
        return module

    def _take(self, memory: Mapping[str, Any]) -> None:
        """Compare with a checkpoint's memory, but for the images, and take its classes and statistics."""
        check_geometry(memory["geometry"], self.geometry(), self.allow_changed, resuming=False)
        check_remembered_bins(memory, self.time_bins)
        check_remembered_classes(dict(memory), self._own_class_names)
        if self.arguments.get("label_column", "") is not None:  # there will be scores
            warn_of_trained(dict(memory), self.labels.frame)
        self._remembered_classes = tuple(memory["class_names"])
        self._remembered_target = memory.get("target")
        self._trained_mpp = memory.get("mpp")
        self._is_restored = True
        if memory.get("stats") is not None and not {"resolution", "crop", "channels"} & {*self.allow_changed}:
            self.__dict__.setdefault("stats", ChannelStats.from_json(memory["stats"]))

    # -- defined by subclasses -----------------------------------------------------------------------------------------

    @abstractmethod
    def read_labels(self) -> LabelTable:
        """Read the table, with its column `split` filled in; called once."""

    @abstractmethod
    def check(self) -> None:
        """Raise for anything that would fail during training; called once, by `setup`."""

    @abstractmethod
    def make_dataset(self, part: Part) -> EpochDataset:
        """Dataset of one split."""

    @abstractmethod
    def compute_stats(self, executor: Executor | None = None, share: str | Path | None = None) -> ChannelStats:
        """Exact channel statistics of the training images as they are read, before any transform.

        Args:
            executor: Counts the images; see `channel_stats`, as for `share`.
            share: Folder of several jobs that share the work.
        """

    def geometry(self) -> Geometry:
        """How images are read and transformed, for the checkpoint; see `wsidata.datamodules.geometry`."""
        return {}

    @property
    def case_geometry(self) -> Geometry:
        """What a sample is made of, as part of `geometry`; nothing where it is one image."""
        if "case" not in self.labels.frame.columns:
            return {}
        most = "all" if self.max_slides is None else f"at most {self.max_slides}"
        return {"cases": f"{most} slides of a case"}

    def normalize_dataset(self, dataset: EpochDataset) -> None:  # not abstract: most leave that to the model
        """Set what samples are normalized with, once statistics may have come from a checkpoint."""

    def check_stats(self, stats: ChannelStats) -> None:  # not abstract: most have nothing to compare
        """Raise for channel statistics of images that were read otherwise; called before training resumes with them."""

    def spacing(self) -> Sequence[float] | None:
        """The least and the largest um per pixel of the training images, where these may differ; for the checkpoint."""
        return None

    def compare_spacing(self, trained: Sequence[float] | None) -> None:  # not abstract: most have none
        """Warn of images whose um per pixel differ from the `spacing` of a checkpoint; called by `setup`, too."""

    def find_unreadable(self) -> Mapping[str, str]:
        """Why rows cannot be read, by `image_id`, as far as it shows without decoding; for `on_error="skip"`."""
        return {}

    def leak_thumbnail(self, path: str) -> NDArray[np.float64]:
        """Gray thumbnail of a row's file, (32, 32), by which near-duplicates are found."""
        return slide_thumbnail(path)

    @property
    def compares_thumbnails(self) -> bool:
        """Whether `setup` looks for near-duplicates."""
        return self.leaks != "off" and (self.leak_checks is None or "thumbnail" in self.leak_checks)

    def keep_arguments(self, *left_out: str) -> None:
        """Keep the arguments of `__init__`, which calls this, in the checkpoint, which then loads with `weights_only`.

        Tables, statistics, crops and `allow_changed` are left out, besides what `left_out` names; and with
        `remember_paths=False` what names files or images. Addresses are kept without what may be secret in them.
        `arguments` has all of these.
        """
        caller: Any = inspect.currentframe().f_back  # type: ignore[union-attr]
        objects = [name for name, value in caller.f_locals.items() if isinstance(value, OBJECTS)]
        naming = () if self.remember_paths else NAMING  # also those of a subclass, whose frame is another
        kept = {name: caller.f_locals[name] for name in naming if name in caller.f_locals and name not in objects}
        address = caller.f_locals.get("image_dir")
        secret = {"image_dir": address} if address is not None and shown(address) != str(address) else {}
        self._naming = {name: plain_values(value) for name, value in (kept | secret).items()}
        self.save_hyperparameters(ignore=[*left_out, *objects, *naming, *secret, "allow_changed"], frame=caller)
        self.hparams.update({name: plain_values(value) for name, value in self.hparams.items()})
        self.hparams.update({name: shown(value) for name, value in secret.items() if name not in naming})

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments of `__init__` that are plain values, whether a checkpoint keeps them or not."""
        return {**self.hparams, **self._naming}

    # -- tables and statistics -----------------------------------------------------------------------------------------

    @cached_property
    def labels(self) -> LabelTable:
        """The whole table, checked and split; read on first use, which needs no `setup`."""
        return self.read_labels()

    @cached_property
    def skipped(self) -> pd.DataFrame:
        """Rows that are in no split because they cannot be read; empty unless `on_error="skip"`.

        Columns `image_id`, `split` (where they were), `label_name`, `path`, `reason`. Found on first use, by opening
        every file's header.

        Raises:
            SplitError: if a split, or a class in a split, would be left without rows.

        Warns:
            SkipWarning: naming the rows.
        """
        frame = self.labels.frame
        skipped = skipped_rows(frame, self.find_unreadable() if self.on_error == "skip" else {})
        check_skipped(frame, skipped)
        if len(skipped):
            rank_zero_warn(describe_skipped(frame, skipped), category=SkipWarning, stacklevel=4)
        return skipped

    @cached_property
    def tables(self) -> dict[str, pd.DataFrame]:
        """The samples of "train", "val", "test" and "predict", in the table's order (columns: `label_table.COLUMNS`).

        Without the rows that are `skipped`. With `case_column=` a sample is a case; see `label_table.by_case`.
        """
        frame = by_case(self._kept)
        if self.labels.target == "survival" and "target" in frame:
            frame = with_intervals(frame, self.time_bins)
        tables = {name: frame[frame["split"] == name].reset_index(drop=True) for name in SPLITS}
        chosen = self.predict_on or ("test" if len(tables["test"]) else "all")
        tables["predict"] = frame if chosen == "all" else tables[chosen].copy()
        return tables

    @cached_property
    def time_bins(self) -> TimeBins:
        """Ends of the intervals of time of `target="survival"`, drawn from the training rows unless they are given.

        Raises:
            SplitError: if they cannot be drawn; see `find_time_bins`.
        """
        if self.labels.target != "survival" or "target" not in self.labels.frame:
            return ()
        frame, requested = by_case(self._kept), self.arguments.get("time_bins")
        if requested is None:  # a published set, whose class names are the ends
            requested = [float(end) for end in self.labels.class_names]
        return find_time_bins(frame[frame["split"] == "train"], requested)

    @property
    def _kept(self) -> pd.DataFrame:
        """The table without the rows that are `skipped`."""
        return without_skipped(self.labels.frame, self.skipped)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Name of class 0, 1, ...; for a table without labels those of the checkpoint, once it was loaded."""
        return self._own_class_names or self._remembered_classes

    @property
    def _own_class_names(self) -> tuple[str, ...]:
        """The classes, or ends of intervals of time, as far as no checkpoint says them."""
        if self.labels.target == "survival":
            return tuple(f"{end:.15g}" for end in self.time_bins)
        return self.labels.class_names

    @property
    def target(self) -> Target:
        """Kind of the targets; for a table without labels that of the checkpoint, once it was loaded."""
        labeled = self.arguments.get("label_column", "") is not None
        return self.labels.target if labeled else self._remembered_target or self.labels.target

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @property
    def class_weights(self) -> Tensor:
        """Class weights inversely proportional to class frequency in the training rows, (K,) float32."""
        return class_weights(self.tables["train"], self.labels.target, self.class_names)

    @cached_property
    def stats(self) -> ChannelStats:
        """Exact channel statistics of the training images as they are read, before any transform; pooled, all pixels.

        Every training image is read once, on first use; by an executor with `dm.stats = dm.compute_stats(executor)`.
        For other choices (tissue only, per image) call `channel_stats(dm.tables["train"]["path"], ...)`.
        """
        return self.compute_stats()

    def check_leaks(self, executor: Executor | None = None) -> LeakReport:
        """Find patients, files, near-duplicates and sites that are in several splits; see `leaks.check_leaks`.

        Args:
            executor: Makes the thumbnails, as for `channel_stats`. None: four threads.
        """
        with ThreadPoolExecutor(_THREADS) if executor is None else nullcontext(executor) as pool:
            return check_leaks(self._kept, checks=self.leak_checks, thumbnail=self.leak_thumbnail, executor=pool)

    @cached_property
    def stage(self) -> Stage | None:
        """Local folder that slides or photos are copied to, and read from; None: they are read where they are.

        Raises:
            OSError: if it cannot be used.
        """
        folder, max_bytes = self._stage
        if folder is None:
            return None
        from wsidata.staging.stage import Stage  # needs locks that not every system has

        return Stage(folder, max_bytes)

    # -- the split as a file -------------------------------------------------------------------------------------------

    @property
    def split_digest(self) -> str:
        """Fingerprint of the split."""
        return split_digest(self.labels.frame)

    def save_split(self, path: str | Path) -> str:
        """Write the split as CSV, to be reused with `split=path`. Returns its digest.

        Rows that are `skipped` stay in it, each with the reason in a column of that name.
        """
        return save_splits(self.split_frame(), path)

    def split_frame(self) -> pd.DataFrame:
        """What `save_split` writes: the whole table, and in the column `skipped` why a row is left out."""
        reasons = dict(zip(self.skipped["image_id"], self.skipped["reason"], strict=True))
        frame = self.labels.frame
        return frame.assign(skipped=[reasons.get(name, "") for name in frame["image_id"]])

    # -- Lightning's hooks ---------------------------------------------------------------------------------------------

    def setup(self, stage: str | None = None) -> None:
        """Read, split and check everything, and make the datasets; a second call does nothing.

        All splits are checked at every stage, so an unreadable test image shows before training.

        Raises:
            SplitError: if the split to validate or test has no rows.
        """
        self._compared_with = None
        part: Part | None = {"validate": "val", "test": "test"}.get(stage or "")  # type: ignore[assignment]
        if part is not None:
            self._check_rows(part)
        if not self.datasets:
            self._agree_on_skipped()
            if self._is_restored:
                refuse_other_kind(self._kept["path"], self.reads, self.allow_changed)
            self.check()
            if stage == "fit" and self.time_bins:
                check_time_bins(self.tables["train"], self.time_bins)
            self.compare_spacing(self._trained_mpp)
            if self.leaks != "off" and (self.trainer is None or self.trainer.is_global_zero):
                self.leak_report = self.check_leaks()
                self.leak_report.report("error" if self.leaks == "error" else "warn")
            self.datasets = {part: self.make_dataset(part) for part in get_args(Part)}
            self.datasets["train"].epoch_source = self._trainer_epoch
        self._run_seed = torch.initial_seed()
        if self.trainer is not None:  # the order of an epoch must be the same on every rank, seeded or not
            self._run_seed = int(self.trainer.strategy.broadcast(self._run_seed))
        if stage == "fit":
            self._save_split_beside_run()

    def teardown(self, stage: str) -> None:
        """After training, say what a model that has the attribute `trained_on` was trained on."""
        model: Any = None if self.trainer is None else self.trainer.lightning_module
        if stage == "fit" and hasattr(model, "trained_on"):
            model.trained_on = self.state_dict()

    def train_dataloader(self) -> EpochLoader:
        """`(image, label)` batches, in another order each epoch."""
        return self._loader("train")

    def val_dataloader(self) -> EpochLoader | list[EpochLoader]:
        """`(image, label)` batches in the order of `tables["val"]`; no loader if there are no validation rows."""
        return self._loader("val") if len(self.tables["val"]) else []

    def test_dataloader(self) -> EpochLoader:
        """`(image, label)` batches in the order of `tables["test"]`."""
        return self._loader("test")

    def predict_dataloader(self) -> EpochLoader | list[EpochLoader]:
        """Batches of images in the order of `tables["predict"]`; no loader if `choose_predicted` leaves no rows."""
        shares = None if self._choose_rows is None else self._choose_rows()
        if shares is None:
            if "predict" in self.datasets:
                self.datasets["predict"].numbered = None
            return self._loader("predict")
        if not any(shares):
            return []
        self.allow_zero_length_dataloader_with_multiple_devices = True
        self.datasets["predict"].numbered = self.on_error
        return self._loader("predict", shares[0 if self.trainer is None else self.trainer.global_rank])

    def choose_predicted(self, choose: Callable[[], Sequence[Sequence[int]]] | None) -> None:
        """Predict on some rows of `tables["predict"]`, in batches that come with their numbers; for `PredictionWriter`.

        With `on_error="skip"` images whose pixels cannot be read do not end the run; see `loader.BatchRows`.

        Args:
            choose: Called when the loader is made; returns the rows of each process. None: all rows, as usual.
        """
        self._choose_rows = choose

    def predicted(self) -> Any:
        """What `PredictionWriter` writes a row of each: the images of this."""
        return self

    # -- the checkpoint ------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """How images are read, the split, the classes, and the statistics if they are known, for the checkpoint."""
        stats = self.__dict__.get("stats")
        times = {"time_bins": list(self.time_bins), "time_unit": self.arguments.get("time_unit")}
        spacing = self.spacing()
        known = ({} if spacing is None else {"mpp": list(spacing)}) | (times if self.time_bins else {})
        return known | remember(
            self.labels.frame,
            self.skipped,
            self.class_names,
            stats,
            self.geometry(),
            target=self.target,
            names=self.remember_paths,
        )

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Compare a checkpoint with this; take its statistics, and for a table without labels its class names.

        Raises:
            GeometryError: if images are read otherwise than the checkpoint's, and `allow_changed` does not say so.
            SplitError: if training would resume with another split, other classes or other statistics, or if images
                that the checkpoint was trained on would be used to validate or test it.

        Warns:
            GeometryWarning: if the checkpoint was written before it remembered how images are read.
        """
        self._compared_with = None if self.trainer is None else self.trainer.ckpt_path
        stage = TrainerFn.FITTING if self.trainer is None else self.trainer.state.fn
        resuming = self.trainer is not None and stage == TrainerFn.FITTING
        check_geometry(state_dict.get("geometry"), self.geometry(), self.allow_changed, resuming=resuming)
        stats = remembered_stats(state_dict, self.__dict__.get("stats"))
        if stats is not None:
            if stage in (None, TrainerFn.FITTING) and not {"resolution", "crop"} & {*self.allow_changed}:
                self.check_stats(stats)
            self.stats = stats
        check_remembered_bins(state_dict, self.time_bins)
        check_remembered_classes(state_dict, self._own_class_names)
        self._remembered_classes = tuple(state_dict["class_names"])
        self._remembered_target = state_dict.get("target")
        self._trained_mpp = state_dict.get("mpp")
        self.compare_spacing(self._trained_mpp)
        if stage != TrainerFn.PREDICTING:
            evaluated: Part | None = (
                "val" if stage == TrainerFn.VALIDATING else "test" if stage == TrainerFn.TESTING else None
            )
            check_remembered_split(state_dict, self.labels.frame, self.skipped, evaluated)

    # -- figures -------------------------------------------------------------------------------------------------------

    def show_batch(
        self,
        part: Part = "train",
        max_images: int = 8,
        path: str | Path | None = None,
        bands: Sequence[int] | None = None,
    ) -> Figure:
        """Draw samples as the network gets them, one class after the other. Leaves random states unchanged.

        Args:
            part: "train" (augmented), "val", "test" or "predict".
            max_images: Number of samples, at most.
            path: Where to save the figure; None saves nothing.
            bands: Numbers of the channels to show: one as gray, three as red, green and blue. None: all, if they are
                one or three.

        Returns:
            The figure.
        """
        dataset, table = self.shown(part, max_images)
        return draw_samples(dataset, table, part, self.class_names, max_images, path, bands)

    def shown(self, part: Part, max_images: int) -> tuple[Any, pd.DataFrame]:
        """The dataset that `show_batch` draws from, and the table of its samples."""
        dataset, table = self.make_dataset(part), self.tables[part]
        return (dataset.slides, slides_of(table)) if isinstance(dataset, CaseDataset) else (dataset, table)

    # -- inside --------------------------------------------------------------------------------------------------------

    def _loader(self, part: Part, rows: Sequence[int] | None = None) -> EpochLoader:
        if part not in self.datasets:
            raise RuntimeError(f"there is no {part} dataset yet. Call setup('fit') first, or let a Trainer do it.")
        self._check_rows(part)
        self._meet_checkpoint()
        self.normalize_dataset(self.datasets[part])
        self.datasets[part].decode_threads = self.decode_threads
        return make_loader(
            self.datasets[part],
            batch_size=self.batch_size,
            shuffle=part == "train",
            balance=self._balance() if part == "train" else None,
            share=share_of_process(self.trainer, part, len(self.datasets[part])),
            rows=rows,
            num_workers=self.num_workers,
            worker_start=self.worker_start,
            pin_memory=self.pin_memory,
            read_timeout_s=self.read_timeout_s,
        )

    def _meet_checkpoint(self) -> None:
        """Compare with what Lightning passes over.

        That is the Trainer's checkpoint if a data module of another class wrote it, and the attribute `trained_on` of a
        model that was trained, or loaded from a checkpoint, before.
        """
        if self.trainer is None:
            return
        path, memory = self.trainer.ckpt_path, None
        if path is not None and path != self._compared_with:
            try:
                memory = read_memory(path)
            except ValueError as error:
                rank_zero_warn(
                    f"how images were read for the model of '{path}' could not be compared with this data module, of "
                    f"another class than that of its training: {error}. Evaluate with the same class.",
                    category=GeometryWarning,
                )
        elif path is None and self.trainer.state.fn != TrainerFn.FITTING:
            memory = getattr(self.trainer.lightning_module, "trained_on", None)
        if memory is not None:
            self.load_state_dict(memory)
        self._compared_with = path

    def _check_rows(self, part: Part) -> None:
        if self.tables[part].empty:
            raise SplitError(
                f"the {part} split has no rows. Choose test rows with split_column=, test_ids=, test_prefix= or "
                "test_fraction=, validation rows with val_fraction=; a table without labels can only be predicted on."
            )

    def _balance(self) -> list[int] | None:
        """Class of each training row, for balanced sampling."""
        if self.sampling == "shuffle":
            return None
        if self.labels.target not in ONE_CLASS:
            raise SplitError(
                f"sampling='balanced' needs one class an image, not targets of kind '{self.labels.target}'."
            )
        return [int(label) for label in self.tables["train"]["label"]]

    def _agree_on_skipped(self) -> None:
        """Raise if processes leave out other rows: their shares would overlap and their steps not match."""
        if self.on_error == "raise" or self.trainer is None:
            return
        ours = self.skipped["image_id"].tolist()
        if ours != (first := self.trainer.strategy.broadcast(ours)):
            raise SplitError(
                f"processes cannot read the same files: process 0 leaves out [{name_some(first)}], process "
                f"{self.trainer.global_rank} [{name_some(ours)}]. Give all nodes access to the same folders."
            )

    def _trainer_epoch(self) -> tuple[int, int] | None:
        """Seed of the run, and epoch of the Trainer that is training with this module now; None if there is none."""
        trainer = self.trainer
        if trainer is None or (trainer.state.fn, trainer.state.status) != (TrainerFn.FITTING, TrainerStatus.RUNNING):
            return None
        # Resumed from a checkpoint of the end of an epoch, loaders start while that epoch is still the current one, and
        # are not started again for the next.
        loop = trainer.fit_loop
        is_over = loop.restarting and loop.epoch_loop.batch_progress.is_last_batch
        processed: int = loop.epoch_progress.current.processed  # type: ignore[attr-defined]  # by Lightning's annotation
        return self._run_seed, max(trainer.current_epoch + int(is_over), processed)

    def _save_split_beside_run(self) -> None:
        if self.trainer is None or getattr(self.trainer, "fast_dev_run", False):
            return
        folder = self.trainer.log_dir or self.trainer.default_root_dir  # log_dir is a collective: every rank asks
        if self.trainer.is_global_zero:
            save_splits_beside(self.split_frame(), folder)


def shared_arguments(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Those arguments of a data module that `SplitDataModule` takes, from its `locals()`."""
    return {name: arguments[name] for name in inspect.signature(SplitDataModule).parameters}
