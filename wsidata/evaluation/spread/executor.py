"""Predictions by the workers of an executor, written by the process that asks for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pandas as pd
from lightning import Trainer

from wsidata.evaluation.prediction_file import ERROR, KEY, Row, append, as_cells
from wsidata.evaluation.writer import PredictionWriter
from wsidata.jobs.pools import outcomes, refuse_forks

Predict = Callable[[Sequence[str]], list[Row]]
"""From the paths of a batch to their rows; sent to the workers."""


class CollectingWriter(PredictionWriter):
    """`PredictionWriter` that keeps rows instead of writing them, in a worker.

    Args:
        paths: The images to predict, a whole batch, in order; the data module's own ones are these.
        class_names: See `PredictionWriter`.

    Attributes:
        rows: What was predicted.
    """

    def __init__(self, paths: Sequence[str], class_names: Sequence[str]) -> None:
        super().__init__("collected", class_names=class_names)
        self.rows: list[Row] = []
        self._paths = list(paths)

    def teardown(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        """There is no file."""
        if self._data is not None:
            self._data.choose_predicted(None)

    def _take_up(self, trainer: Trainer) -> list[str]:
        return []

    def _chosen(self, finished: set[str], processes: int) -> list[Sequence[int]]:
        number = {path: row for row, path in enumerate(self._table[KEY])}
        done = {row[KEY] for row in self.rows}
        return [[number[path] for path in self._paths if path in number and path not in done]]

    def _write(self, table: pd.DataFrame) -> None:
        self.rows += as_cells(table.reindex(columns=self._columns, fill_value=""))


class ExecutorWriter(PredictionWriter):
    """`PredictionWriter` of predictions that the workers of an executor make; the Trainer itself predicts nothing.

    Args:
        path: CSV file to write.
        predict: What workers call for each batch; for processes it must be one that pickle can send.
        executor: Processes, here or elsewhere, that do not fork.
        overwrite: See `PredictionWriter`, as for `class_names`.
        class_names: Names of the K outputs.

    Raises:
        ValueError: for threads, as a Trainer is not for several of them, or a pool that forks.
    """

    def __init__(
        self,
        path: str | Path,
        predict: Predict,
        executor: Executor,
        *,
        overwrite: bool = False,
        class_names: Sequence[str] | None = None,
    ) -> None:
        super().__init__(path, overwrite=overwrite, class_names=class_names)
        refuse_forks(executor)
        if isinstance(executor, ThreadPoolExecutor):
            raise ValueError(
                "predictions are made by processes, each with a network of its own, and this executor has threads. "
                "Pass wsidata.stats.compute.process_pool(workers), or Dask's client.get_executor(pure=False)."
            )
        self._predict, self._executor = predict, executor

    def _chosen(self, finished: set[str], processes: int) -> list[Sequence[int]]:
        """No rows, after all have been predicted elsewhere."""
        if processes > 1:
            raise ValueError("an executor is for one device here: pass devices=1.")
        if "paths" in self._table.columns:
            raise ValueError("an executor predicts file by file, and a case is several: leave executor= out.")
        (rows,) = super()._chosen(finished, processes)
        size, paths = self._known.batch_size, self._table[KEY].tolist()
        row_of = {path: row for row, path in enumerate(paths)}
        batches = [[paths[row] for row in rows[start : start + size]] for start in range(0, len(rows), size)]
        with closing(outcomes(self._predict, batches, self._executor, name=lambda batch: batch[0])) as found:
            for batch, predicted in found:
                if isinstance(predicted, Exception):
                    raise predicted
                there = [row[KEY] for row in predicted]
                if sorted(there) != sorted(batch):
                    raise RuntimeError(f"a worker was asked to predict {batch}, and predicted {there}.")
                known = as_cells(self._described(self._table.iloc[[row_of[path] for path in there]]))
                empty = dict.fromkeys(self._columns, "")
                made = [{**empty, **row, **ours} for row, ours in zip(predicted, known, strict=True)]
                self.unreadable.update({row[KEY]: row[ERROR] for row in made if row[ERROR]})
                append(self.path, self._columns, made)
        return [[]]
