"""What every data module here does alike: loaders of every part, and a split that a checkpoint remembers.

A concrete module only says where its table comes from (`read_labels`, see `datamodule_tables`) and how a part of it
becomes a dataset (`make_dataset`).
"""

from __future__ import annotations

import inspect
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch.trainer.states import TrainerFn, TrainerStatus
from matplotlib.figure import Figure

from wsidata.batch_figures import draw_samples
from wsidata.datamodule_tables import OnError, SplitTables, check_choice
from wsidata.epochs import EpochDataset
from wsidata.leaks import LeakKind
from wsidata.loaders import EpochLoader, WorkerStart, check_worker_start, make_loader
from wsidata.samplers import share_of_process
from wsidata.split_base import PARTS, Part, SplitError, name_some
from wsidata.split_files import save_splits_beside
from wsidata.split_memory import (
    check_remembered_classes,
    check_remembered_split,
    plain_values,
    remember,
    remembered_stats,
)
from wsidata.stats import ChannelStats

__all__ = ["LEAK_ACTIONS", "PARTS", "Leaks", "OnError", "Part", "Sampling", "SplitDataModule"]

Sampling = Literal["shuffle", "balanced"]
Leaks = Literal["off", "warn", "error"]
LEAK_ACTIONS = ("off", "warn", "error")


class SplitDataModule(SplitTables):
    """Train, validation, test and predict loaders over one table that is split.

    Args:
        batch_size: Samples a batch (per process).
        num_workers: Worker processes a loader.
        worker_start: "forkserver" or "spawn". None: the fork server where there is one.
        pin_memory: Copy batches to page-locked memory. None: where there is CUDA.
        predict_on: Rows to predict on, in the table's order. None: the test rows, or all rows where there are none.
        sampling: "shuffle" draws every training row once an epoch; "balanced" every class equally often.
        stats: Channel statistics, or the JSON file they were saved in. None: computed on first use.
        leaks: Whether what is in two parts (see `leaks.check_leaks`) is passed over, warned of, or an error.
        leak_checks: What to look for; None: all that the table allows.
        on_error: Whether rows that `find_unreadable` names are an error, or left out of the parts with a warning.
    """

    def __init__(
        self,
        *,
        batch_size: int,
        num_workers: int,
        worker_start: WorkerStart | None = None,
        pin_memory: bool | None,
        predict_on: Literal["train", "val", "test", "all"] | None,
        sampling: Sampling = "shuffle",
        stats: ChannelStats | str | Path | None = None,
        leaks: Leaks = "warn",
        leak_checks: Sequence[LeakKind] | None = None,
        on_error: OnError = "raise",
    ) -> None:
        super().__init__(predict_on=predict_on, stats=stats, leak_checks=leak_checks, on_error=on_error)
        if batch_size < 1 or num_workers < 0:
            raise ValueError(f"batch_size={batch_size} must be at least 1, and num_workers={num_workers} at least 0.")
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.pin_memory = torch.cuda.is_available() if pin_memory is None else pin_memory
        check_choice("sampling", sampling, ("shuffle", "balanced"))
        check_choice("leaks", leaks, LEAK_ACTIONS)
        self.worker_start = check_worker_start(worker_start) if num_workers else None
        self.sampling = sampling
        self.leaks = leaks
        self.datasets: dict[str, EpochDataset] = {}
        self._run_seed = 0

    @abstractmethod
    def check(self) -> None:
        """Refuse what would fail during training; called once, by `setup`."""

    def check_stats(self, stats: ChannelStats) -> None:  # not abstract: most have nothing to compare
        """Refuse channel statistics of images that were read otherwise; asked before training goes on with them."""

    @abstractmethod
    def make_dataset(self, part: Part) -> EpochDataset:
        """Dataset of one part."""

    # -- Lightning's hooks ---------------------------------------------------------------------------------------------

    def setup(self, stage: str | None = None) -> None:
        """Read, split and check everything, and make the datasets; a second call does nothing.

        All parts are checked whatever the stage: a test slide that cannot be read should be known before training.
        """
        if not self.datasets:
            self._agree_on_skipped()
            self.check()
            if self.leaks != "off" and (self.trainer is None or self.trainer.is_global_zero):
                self.check_leaks().report("error" if self.leaks == "error" else "warn")
            self.datasets = {part: self.make_dataset(part) for part in PARTS}
            self.datasets["train"].epoch_source = self._trainer_epoch
        self._run_seed = torch.initial_seed()
        if self.trainer is not None:  # the order of an epoch must be the same on every rank, seeded or not
            self._run_seed = int(self.trainer.strategy.broadcast(self._run_seed))
        if stage == "fit":
            self._save_split_beside_run()

    def train_dataloader(self) -> EpochLoader:
        """`(image, label)` batches in an order of its own each epoch."""
        return self._loader("train")

    def val_dataloader(self) -> EpochLoader | list[EpochLoader]:
        """`(image, label)` batches in the order of `tables["val"]`; no loader if there are no validation rows."""
        return self._loader("val") if len(self.tables["val"]) else []

    def test_dataloader(self) -> EpochLoader:
        """`(image, label)` batches in the order of `tables["test"]`."""
        return self._loader("test")

    def predict_dataloader(self) -> EpochLoader:
        """Batches of images in the order of `tables["predict"]`."""
        return self._loader("predict")

    def keep_arguments(self, left_out: Sequence[str]) -> None:
        """Keep the arguments of `__init__`, which calls this, for the checkpoint: plain values only."""
        self.save_hyperparameters(ignore=list(left_out), frame=inspect.currentframe().f_back)  # type: ignore[union-attr]
        self.hparams.update({name: plain_values(value) for name, value in self.hparams.items()})

    def state_dict(self) -> dict[str, Any]:
        """The split, the classes, and the statistics if they are known, for the checkpoint."""
        return remember(self.labels.frame, self.skipped, self.class_names, self.__dict__.get("stats"))

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Compare a checkpoint's split and statistics with ours; take its statistics if we have none.

        Raises:
            SplitError: if training would go on with another split, other classes or other statistics, or if slides
                that the checkpoint was trained on would be used to validate or test it.
        """
        stats = remembered_stats(state_dict, self.__dict__.get("stats"))
        stage = None if self.trainer is None else self.trainer.state.fn
        if stats is not None:
            if stage in (None, TrainerFn.FITTING):
                self.check_stats(stats)
            self.stats = stats
        check_remembered_classes(state_dict, self.class_names)
        if stage in (None, TrainerFn.FITTING):
            check_remembered_split(state_dict, self.labels.frame, self.skipped)
        elif stage in (TrainerFn.VALIDATING, TrainerFn.TESTING):
            part: Part = "val" if stage == TrainerFn.VALIDATING else "test"
            check_remembered_split(state_dict, self.labels.frame, self.skipped, evaluated=part)

    # -- looking at it -------------------------------------------------------------------------------------------------

    def show_batch(
        self,
        part: Part = "train",
        max_images: int = 8,
        path: str | Path | None = None,
        bands: Sequence[int] | None = None,
    ) -> Figure:
        """Draw samples as the network gets them, the classes in turn. Changes no random state.

        Args:
            part: "train" (augmented), "val", "test" or "predict".
            max_images: How many at most.
            path: Where to save the figure; None saves nothing.
            bands: Numbers of the channels to show: one as grey, three as red, green and blue. None: all, if they are
                one or three.

        Returns:
            The figure.
        """
        table, dataset = self.tables[part], self.make_dataset(part)
        return draw_samples(dataset, table, part, self.class_names, max_images, path, bands)

    # -- inside --------------------------------------------------------------------------------------------------------

    def _loader(self, part: Part) -> EpochLoader:
        if part not in self.datasets:
            raise RuntimeError(f"there is no {part} dataset yet. Call setup('fit') first, or let a Trainer do it.")
        if self.tables[part].empty:
            raise SplitError(
                f"the {part} part has no rows. Choose test rows with split_column=, test_ids=, test_prefix= or "
                "test_fraction=, validation rows with val_fraction=; a table without labels can only be predicted on."
            )
        return make_loader(
            self.datasets[part],
            batch_size=self.batch_size,
            shuffle=part == "train",
            balance=self._balance() if part == "train" else None,
            share=share_of_process(self.trainer, part, len(self.tables[part])),
            num_workers=self.num_workers,
            worker_start=self.worker_start,
            pin_memory=self.pin_memory,
        )

    def _balance(self) -> list[int] | None:
        """Class of each training row, if classes are to be drawn equally often."""
        if self.sampling == "shuffle":
            return None
        if self.labels.target != "class":
            raise SplitError(
                f"sampling='balanced' needs one class an image, not targets of kind '{self.labels.target}'."
            )
        return [int(label) for label in self.tables["train"]["label"]]

    def _agree_on_skipped(self) -> None:
        """All processes must leave out the same rows, or their shares would overlap and their steps not match."""
        if self.on_error == "raise" or self.trainer is None:
            return
        ours = self.skipped["image_id"].tolist()
        if ours != (first := self.trainer.strategy.broadcast(ours)):
            raise SplitError(
                f"processes cannot read the same files: process 0 leaves out [{name_some(first)}], process "
                f"{self.trainer.global_rank} [{name_some(ours)}]. See to it that all nodes see the same folders."
            )

    def _trainer_epoch(self) -> tuple[int, int] | None:
        """The seed of the run and the epoch of the Trainer that is training with this module now, if there is one."""
        trainer = self.trainer
        if trainer is None or (trainer.state.fn, trainer.state.status) != (TrainerFn.FITTING, TrainerStatus.RUNNING):
            return None
        # With a checkpoint of the end of an epoch, that epoch still is the present one when loaders are begun, and they
        # are not begun again for the next.
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
