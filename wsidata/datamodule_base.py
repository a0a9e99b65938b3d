"""What every data module here does alike: loaders, facts about the classes, and a split that a checkpoint remembers.

A concrete module only says where its table comes from (`read_labels`) and how a part of it becomes a dataset
(`make_dataset`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.trainer.states import TrainerFn, TrainerStatus
from matplotlib.figure import Figure
from torch import Tensor

from wsidata.datasets import SlideDataset
from wsidata.lazy import as_tensor
from wsidata.loaders import EpochLoader, make_loader
from wsidata.plots import plot_images, spread_over_classes
from wsidata.split_files import check_no_leak, check_same_split, save_splits, split_digest, split_parts
from wsidata.splits import SPLITS, SplitError
from wsidata.stats import ChannelStats, channel_stats
from wsidata.tables import LabelTable

Part = Literal["train", "val", "test", "predict"]
PARTS: tuple[Part, ...] = ("train", "val", "test", "predict")


class SplitDataModule(LightningDataModule, ABC):
    """Train, validation, test and predict loaders over one table that is split.

    Args:
        batch_size: Samples a batch (per process).
        num_workers: Worker processes a loader.
        pin_memory: Copy batches to page-locked memory. None: where there is CUDA.
        predict_on: Rows to predict on, in the table's order. None: the test rows, or all rows where there are none.
    """

    def __init__(
        self,
        *,
        batch_size: int,
        num_workers: int,
        pin_memory: bool | None,
        predict_on: Literal["train", "val", "test", "all"] | None,
    ) -> None:
        super().__init__()
        if batch_size < 1 or num_workers < 0:
            raise ValueError(f"batch_size={batch_size} must be at least 1, and num_workers={num_workers} at least 0.")
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.pin_memory = torch.cuda.is_available() if pin_memory is None else pin_memory
        self.predict_on = predict_on
        self.datasets: dict[str, SlideDataset] = {}
        self._run_seed = 0

    @abstractmethod
    def read_labels(self) -> LabelTable:
        """Read the table, with its column `split` filled in; called once."""

    @abstractmethod
    def check(self) -> None:
        """Refuse what would fail during training; called once, by `setup`."""

    @abstractmethod
    def make_dataset(self, part: Part) -> SlideDataset:
        """Dataset of one part."""

    # -- the table -----------------------------------------------------------------------------------------------------

    @cached_property
    def labels(self) -> LabelTable:
        """The whole table, checked and split; read on first use, which needs no `setup`."""
        return self.read_labels()

    @cached_property
    def tables(self) -> dict[str, pd.DataFrame]:
        """The rows of "train", "val", "test" and "predict", in the table's order (columns: `tables.COLUMNS`)."""
        frame = self.labels.frame
        tables = {name: frame[frame["split"] == name].reset_index(drop=True) for name in SPLITS}
        chosen = self.predict_on or ("test" if len(tables["test"]) else "all")
        tables["predict"] = frame.copy() if chosen == "all" else tables[chosen].copy()
        return tables

    @property
    def class_names(self) -> tuple[str, ...]:
        """Name of class 0, 1, ..."""
        return self.labels.class_names

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @property
    def class_weights(self) -> Tensor:
        """Weights for a loss that make classes count alike: n / (K * n_c) over the training rows, (K,) float32.

        The formula is scikit-learn's `class_weight="balanced"`.

        Raises:
            SplitError: if a class has no training row.
        """
        counts = torch.bincount(torch.tensor(self.tables["train"]["label"].tolist()), minlength=self.num_classes)
        if (counts == 0).any():
            empty = [name for name, count in zip(self.class_names, counts.tolist(), strict=True) if count == 0]
            raise SplitError(
                f"class {empty} has no training slide, so its weight is unknown. Take it out of class_names."
            )
        return counts.sum() / (self.num_classes * counts.float())

    @cached_property
    def stats(self) -> ChannelStats:
        """Exact channel statistics of the training slides as they are read, before any transform; pooled, all pixels.

        Every training slide is read once, on first use. For other choices (tissue only, per image, an executor) call
        `channel_stats(dm.tables["train"]["path"], ...)`.
        """
        dataset = self.make_dataset("train")
        return channel_stats(dataset.paths, mpp_override=dataset.mpp_override, **dataset.resolution)

    @property
    def split_digest(self) -> str:
        """Fingerprint of the split."""
        return split_digest(self.labels.frame)

    def save_split(self, path: str | Path) -> str:
        """Write the split as CSV, to be reused with `split=path`. Returns its digest."""
        return save_splits(self.labels.frame, path)

    # -- Lightning's hooks ---------------------------------------------------------------------------------------------

    def setup(self, stage: str | None = None) -> None:
        """Read, split and check everything, and make the datasets; a second call does nothing.

        All parts are checked whatever the stage: a test slide that cannot be read should be known before training.
        """
        if not self.datasets:
            self.check()
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

    def state_dict(self) -> dict[str, Any]:
        """The split and the classes, for the checkpoint."""
        frame = self.labels.frame
        return {"split": split_parts(frame), "digest": split_digest(frame), "class_names": list(self.class_names)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Compare a checkpoint's split with ours.

        Raises:
            SplitError: if training would go on with another split or other classes, or if slides that the checkpoint
                was trained on would be used to validate or test it.
        """
        if state_dict["class_names"] != list(self.class_names):
            raise SplitError(
                f"the checkpoint's classes are {state_dict['class_names']} and the table's {list(self.class_names)}. "
                "Pass class_names= in the checkpoint's order."
            )
        stage = None if self.trainer is None else self.trainer.state.fn
        if stage in (None, TrainerFn.FITTING):
            if state_dict["digest"] != self.split_digest:
                check_same_split(state_dict["split"], split_parts(self.labels.frame))
        elif stage in (TrainerFn.VALIDATING, TrainerFn.TESTING):
            part = "val" if stage == TrainerFn.VALIDATING else "test"
            check_no_leak(state_dict["split"], list(self.tables[part]["image_id"]), part)

    # -- looking at it -------------------------------------------------------------------------------------------------

    def show_batch(self, part: Part = "train", max_images: int = 8, path: str | Path | None = None) -> Figure:
        """Draw samples as the network gets them, the classes in turn. Changes no random state.

        Args:
            part: "train" (augmented), "val", "test" or "predict".
            max_images: How many at most.
            path: Where to save the figure; None saves nothing.

        Returns:
            The figure.
        """
        table = self.tables[part]
        if table.empty:
            raise SplitError(f"there are no {part} rows to show.")
        dataset = self.make_dataset(part)
        rows = spread_over_classes(table["label"].tolist(), max_images)
        images = [as_tensor(dataset.image(row)) for row in rows]
        titles = [f"{table['image_id'][row]}\n{table['label_name'][row]}" for row in rows]
        sizes = sorted({f"{image.shape[1]} x {image.shape[2]}" for image in images})
        size = f"{sizes[0]} px" if len(sizes) == 1 else "sizes differ"
        asked = ", ".join(f"{name}={value:g}" for name, value in dataset.resolution.items())
        heading = f"{part}: {len(rows)} of {len(table)} slides, {asked}, {size}, {str(images[0].dtype).split('.')[1]}"
        figure = plot_images(images, titles, heading)
        if path is not None:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            figure.savefig(path, dpi=120)
        return figure

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
            num_workers=self.num_workers,
            pin_memory=self.pin_memory,
        )

    def _trainer_epoch(self) -> tuple[int, int] | None:
        """The seed of the run and the epoch of the Trainer that is training with this module now, if there is one."""
        trainer = self.trainer
        if trainer is None or (trainer.state.fn, trainer.state.status) != (TrainerFn.FITTING, TrainerStatus.RUNNING):
            return None
        return self._run_seed, trainer.current_epoch

    def _save_split_beside_run(self) -> None:
        if self.trainer is None or getattr(self.trainer, "fast_dev_run", False):
            return
        folder = self.trainer.log_dir or self.trainer.default_root_dir  # log_dir is a collective: every rank asks
        if self.trainer.is_global_zero:
            self.save_split(Path(folder) / "split.csv")
