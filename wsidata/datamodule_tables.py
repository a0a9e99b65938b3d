"""What a data module knows before any training: its table, the parts, the classes, what leaks, the statistics.

None of it needs `setup`; each is read or computed when it is first asked for.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities import rank_zero_warn
from numpy.typing import NDArray
from torch import Tensor

from wsidata.class_weights import class_weights
from wsidata.fingerprints import slide_thumbnail
from wsidata.leaks import LeakKind, LeakReport, check_leaks
from wsidata.skipping import SkipWarning, check_skipped, describe_skipped, skipped_rows, without_skipped
from wsidata.split_base import SPLITS
from wsidata.split_files import save_splits, split_digest
from wsidata.stats import ChannelStats
from wsidata.tables import LabelTable

OnError = Literal["raise", "skip"]
_THREADS = 4


class SplitTables(LightningDataModule, ABC):
    """A table that is split, and facts that follow from it.

    Args:
        predict_on: Rows to predict on, in the table's order. None: the test rows, or all rows where there are none.
        stats: Channel statistics, or the JSON file they were saved in. None: computed on first use.
        leak_checks: What `check_leaks` looks for; None: all that the table allows.
        on_error: Whether rows that `find_unreadable` names are an error, or left out of the parts with a warning.
    """

    def __init__(
        self,
        *,
        predict_on: Literal["train", "val", "test", "all"] | None,
        stats: ChannelStats | str | Path | None,
        leak_checks: Sequence[LeakKind] | None,
        on_error: OnError,
    ) -> None:
        super().__init__()
        check_choice("on_error", on_error, ("raise", "skip"))
        if predict_on is not None:
            check_choice("predict_on", predict_on, (*SPLITS, "all"))
        self.predict_on, self.leak_checks, self.on_error = predict_on, leak_checks, on_error
        if stats is not None:  # takes the place of the cached property
            self.stats = stats if isinstance(stats, ChannelStats) else ChannelStats.load(stats)

    @abstractmethod
    def read_labels(self) -> LabelTable:
        """Read the table, with its column `split` filled in; called once."""

    def find_unreadable(self) -> Mapping[str, str]:
        """Why rows cannot be read, by `image_id`, as far as it shows without decoding; asked if `on_error="skip"`."""
        return {}

    @cached_property
    def labels(self) -> LabelTable:
        """The whole table, checked and split; read on first use, which needs no `setup`."""
        return self.read_labels()

    @cached_property
    def skipped(self) -> pd.DataFrame:
        """Rows that are in no part because they cannot be read; empty unless `on_error="skip"`.

        Columns `image_id`, `split` (where they were), `label_name`, `path`, `reason`. Looked for on first use, by
        opening every file's header.

        Raises:
            SplitError: if a part, or a class in a part, would be left without rows.

        Warns:
            SkipWarning: naming what is left out.
        """
        frame = self.labels.frame
        skipped = skipped_rows(frame, self.find_unreadable() if self.on_error == "skip" else {})
        check_skipped(frame, skipped)
        if len(skipped):
            rank_zero_warn(describe_skipped(frame, skipped), category=SkipWarning, stacklevel=4)
        return skipped

    @cached_property
    def tables(self) -> dict[str, pd.DataFrame]:
        """The rows of "train", "val", "test" and "predict", in the table's order (columns: `tables.COLUMNS`).

        Without the rows that are `skipped`.
        """
        frame = without_skipped(self.labels.frame, self.skipped)
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
        """Weights of the classes, from the training rows, (K,) float32; see `class_weights.class_weights`."""
        return class_weights(self.tables["train"], self.labels.target, self.class_names)

    def check_leaks(self) -> LeakReport:
        """Look for patients, files, looks and sites that are in more than one part; see `leaks.check_leaks`."""
        frame = without_skipped(self.labels.frame, self.skipped)
        with ThreadPoolExecutor(_THREADS) as pool:
            return check_leaks(frame, checks=self.leak_checks, thumbnail=self.leak_thumbnail, executor=pool)

    def leak_thumbnail(self, path: str) -> NDArray[np.float64]:
        """A row's file, squashed to 32 x 32 grey pixels, as it is compared with others."""
        return slide_thumbnail(path)

    @abstractmethod
    def compute_stats(self) -> ChannelStats:
        """Exact channel statistics of the training images as they are read, before any transform."""

    @cached_property
    def stats(self) -> ChannelStats:
        """Exact channel statistics of the training slides as they are read, before any transform; pooled, all pixels.

        Every training slide is read once, on first use. For other choices (tissue only, per image, an executor) call
        `channel_stats(dm.tables["train"]["path"], ...)`.
        """
        return self.compute_stats()

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


def check_choice(name: str, value: str, known: Sequence[str]) -> None:
    """Refuse an argument that is none of some words.

    Raises:
        ValueError: with the words.
    """
    if value not in known:
        raise ValueError(f"{name}={value!r} is not one of {', '.join(known)}.")
