"""Predictions of several jobs, on any machines, which fill one file together.

predictions.csv.jobs/    what jobs have predicted, a file a batch, as long as one of them runs; see `jobs.claims`
predictions.csv          written when all is there, the same as by one job
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, overload

import pandas as pd
from lightning import LightningModule, Trainer

from wsidata.evaluation.prediction_file import (
    ERROR,
    KEY,
    Row,
    as_cells,
    check_same,
    facts_of,
    is_stream,
    joined,
    merged,
    parts,
    write_facts,
    write_rows,
)
from wsidata.evaluation.writer import PredictionWriter
from wsidata.jobs import claims
from wsidata.jobs.claims import Results, SharedRun
from wsidata.utils.files import json_sha256


class SharedWriter(PredictionWriter):
    """`PredictionWriter` of several jobs, each of which predicts batches that no other has.

    Call `Trainer.predict` as long as `goes_on` says so:

        while True:
            trainer.predict(model, datamodule=dm, return_predictions=False)
            if not writer.goes_on():
                break

    Args:
        path: CSV file to write, the same for all jobs. What it holds already of this network is not predicted again.
        class_names: See `PredictionWriter`.

    Raises:
        ValueError: if the path is a pipe or device.
    """

    def __init__(self, path: str | Path, *, class_names: Sequence[str] | None = None) -> None:
        super().__init__(path, class_names=class_names)
        if is_stream(self.path):
            raise ValueError(f"'{path}' keeps no rows, so jobs cannot share it. Name a file.")
        self._run: SharedRun | None = None
        self._before: list[Row] = []
        self._made: list[Row] = []
        self._batches: dict[str, list[int]] = {}

    @property
    def left(self) -> list[str]:
        """Names of batches that no job has predicted yet."""
        return [key for key in self._batches if self._joined.result(key) is None]

    def goes_on(self) -> bool:
        """Wait for what other jobs are at; whether something is left to predict, as one of them ended early.

        If not, the file is whole.
        """
        run = self._joined
        while left := self.left:
            if any(run.take(key) for key in left):
                run.give_back()
                return True
            time.sleep(claims.POLL_S)
        for _ in run.outcomes(["file"], self._put_together):
            pass
        place = {path: number for number, path in enumerate(self._all_rows()[KEY])}
        rows = merged(self.path, self._columns)
        self.unreadable = {row[KEY]: row[ERROR] for row in rows if row[ERROR] and row[KEY] in place}
        self._leave(None)
        return False

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leave the run, unless it goes on after this; see `PredictionWriter`."""
        super().on_exception(trainer, pl_module, exception)
        self._made = []
        if not self.goes_on_after(exception):
            self._leave(exception)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Keep what was predicted; the file is written by `goes_on`."""
        if stage == "predict" and self._data is not None:
            self._data.choose_predicted(None)

    # -- inside --------------------------------------------------------------------------------------------------------

    @property
    def _joined(self) -> SharedRun:
        assert self._run is not None  # since the first call of `Trainer.predict`
        return self._run

    def _take_up(self, trainer: Trainer) -> list[str]:
        """Join the run; images that the file has."""
        if trainer.world_size > 1:
            raise ValueError("jobs that share predictions use one device each: pass devices=1, and start more jobs.")
        if self._run is not None:
            self._run.give_back()  # what the loader of a call before had taken
            return []
        facts = facts_of(self._columns, self._settings)
        check_same(self.path, facts)
        images = json_sha256([self._table[KEY].tolist(), self._known.batch_size])
        run = SharedRun(self.path.with_name(f"{self.path.name}.jobs"), {**facts, "images": images})
        self._run = run.__enter__()
        self._before = merged(self.path, self._columns)
        return [row[KEY] for row in self._before if not row[ERROR]]

    def _chosen(self, finished: set[str], processes: int) -> list[Sequence[int]]:
        """All batches that are left, to be taken as the loader asks for them."""
        if not self._batches:
            self._before += self._made  # whose headers cannot be read
            size = self._known.batch_size
            (rows,) = super()._chosen(finished, processes)
            batches = [list(rows[start : start + size]) for start in range(0, len(rows), size)]
            self._batches = {self._name(batch): batch for batch in batches}
        self._made = []
        return [_Free(self._joined, {key: self._batches[key] for key in self.left})]

    def _write(self, table: pd.DataFrame) -> None:
        self._made += as_cells(table.reindex(columns=self._columns, fill_value=""))

    def _batch_done(self, rows: Sequence[int]) -> None:
        has_errors = any(row[ERROR] for row in self._made)
        self._joined.finish(self._name(rows), {"rows": self._made, **({"retry": True} if has_errors else {})})
        self._made = []

    def _name(self, rows: Sequence[int]) -> str:
        return json_sha256([self._table[KEY].iloc[row] for row in rows])

    def _put_together(self, taken: Iterator[str]) -> Results:
        """Write the file, in the job that takes this on."""
        for item in taken:
            rows = [*self._before]
            for key in self._batches:
                rows += (self._joined.result(key) or {"rows": []})["rows"]
            place = {path: number for number, path in enumerate(self._all_rows()[KEY])}
            write_facts(self.path, facts_of(self._columns, self._settings))
            write_rows(self.path, self._columns, sorted(joined(rows), key=lambda row: place.get(row[KEY], -1)))
            for part in parts(self.path):
                part.unlink()
            yield item, {"retry": True}

    def _leave(self, error: BaseException | None) -> None:
        if self._run is not None:
            self._run.__exit__(None if error is None else type(error), error, None)
        self._run, self._batches = None, {}


class _Free(Sequence[int]):
    """Rows of batches that no other job has, taken as they are asked for.

    Args:
        run: The run.
        batches: Rows of each batch, by its name.
    """

    def __init__(self, run: SharedRun, batches: dict[str, list[int]]) -> None:
        self._run, self._batches = run, batches

    def __iter__(self) -> Iterator[int]:
        for key, rows in self._batches.items():
            if self._run.take(key):
                yield from rows

    def __len__(self) -> int:
        return sum(map(len, self._batches.values()))

    @overload
    def __getitem__(self, index: int) -> int: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[int]: ...
    def __getitem__(self, index: Any) -> Any:
        return [row for rows in self._batches.values() for row in rows][index]
