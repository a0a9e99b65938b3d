"""Lightning callback that writes predictions to a CSV file while they are computed."""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, cast

import numpy as np
import pandas as pd
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from numpy.typing import NDArray
from torch import Tensor

from wsidata.evaluation.prediction_file import (
    ERROR,
    KEY,
    PredictionFileError,
    append,
    as_cells,
    begin,
    is_stream,
    merged,
    part_of,
    parts,
    write_rows,
)
from wsidata.evaluation.predictions import EXPECTED_RANK, RISK, SURVIVAL_PREFIX, decided, expected_rank
from wsidata.remote.address import shown
from wsidata.tables.label_table import LabelTable, by_case
from wsidata.tables.targets import ONE_CLASS
from wsidata.utils.files import json_sha256
from wsidata.utils.processes import why_unreadable

_SUM = 0.02
"""How far probabilities may add up to something else than 1, computed in 16 bits."""


_PREFIXES = {"regression": "value_", "survival": SURVIVAL_PREFIX}
"""What the columns of numbers begin with that are no probabilities of classes."""


class Predicted(Protocol):
    """What a data module offers to whoever writes predictions of its images; those of this package do."""

    tables: dict[str, pd.DataFrame]
    labels: LabelTable
    skipped: pd.DataFrame
    class_names: tuple[str, ...]
    target: str
    batch_size: int
    on_error: Literal["raise", "skip"]

    def geometry(self) -> dict[str, Any]:
        """How images are read."""

    def choose_predicted(self, choose: Callable[[], Sequence[Sequence[int]]] | None) -> None:
        """Predict on some rows only, in numbered batches."""


class PredictionWriter(Callback):
    """Writes one row an image, as soon as its batch is predicted: id, path, predicted class, probabilities, error.

    Of cases it writes a row each: `image` is the case, and `path` its first slide. A case with a slide whose pixels
    cannot be read is not predicted.

    For `Trainer.predict` with a data module of this package, and any LightningModule whose `predict_step` returns
    (B, K) tensors: probabilities of classes, of several labels, or numbers. A run that was interrupted is taken up
    where it stopped, in whole batches, so that the file is the same in the end. With `on_error="skip"` images that
    cannot be read, by their headers or by their pixels, are named in the column `error`, and others predicted as if
    they could.

    Several processes write a file each, merged at the end. Rows are in the order of the table then.

    Of single tiles (`TileDataModule`) it writes a row each to `predictions.tiles.csv`, with their place (`x_lv0`,
    `y_lv0`; `path` is `file.tif#x=1024,y=512`), and at the end the mean of the tiles of each slide to
    `predictions.csv`, with their number (`tiles`). By these means classes are decided.

    Args:
        path: CSV file to write; a device or pipe, such as /dev/stdout, is written to once.
        overwrite: Replace a file that is there. Otherwise rows of the same network are kept, and another file is
            refused.
        class_names: Names of the K outputs. None: those of the data module; numbers, where it knows none.

    Attributes:
        unreadable: Why images cannot be read, by their path; of this process, until the end.

    Example:
        >>> dm = WSIDataModule.from_checkpoint("best.ckpt", "new_slides", on_error="skip")
        >>> trainer = Trainer(callbacks=PredictionWriter("predictions.csv"))
        >>> trainer.predict(model, datamodule=dm, return_predictions=False)
    """

    def __init__(self, path: str | Path, *, overwrite: bool = False, class_names: Sequence[str] | None = None) -> None:
        self.path = self._out = Path(path).absolute()
        self.overwrite = overwrite
        self.unreadable: dict[str, str] = {}
        self._names = None if class_names is None else tuple(class_names)
        self._data: Predicted | None = None
        self._columns: list[str] = []
        self._noted: BaseException | None = None
        self._current: tuple[int, ...] = ()
        self._now_unreadable: dict[int, str] = {}

    # -- Lightning's hooks ---------------------------------------------------------------------------------------------

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Ask the data module for numbered batches of what is not predicted yet.

        Raises:
            TypeError: if images come from elsewhere.
        """
        if stage != "predict":
            return
        data: Any = trainer.datamodule  # type: ignore[attr-defined]  # set by Lightning, without annotation
        if not hasattr(data, "choose_predicted"):
            raise TypeError(
                "PredictionWriter writes predictions of the images of a data module of wsidata, and there is "
                f"{'none' if data is None else type(data).__name__}. Call trainer.predict(model, datamodule=...)."
            )
        self._data = cast(Predicted, data.predicted() if hasattr(data, "predicted") else data)
        if hasattr(self._data, "file_of_tiles"):
            self._write_tiles(self._data.file_of_tiles(self._out))
        self._data.choose_predicted(lambda: self._begin(trainer, pl_module))

    def on_predict_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Find out which rows the batch is of."""
        loader: Any = trainer.predict_dataloaders
        self._take_from(loader.read, to_a_batch=True)

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Write the rows of a batch.

        Predictions of images that stand in for unreadable ones become nan.
        """
        values = self._checked(outputs, pl_module)
        left_out = [row in self._now_unreadable for row in self._current]
        if any(left_out):
            outputs[torch.tensor(left_out, device=outputs.device)] = torch.nan
        table = self._rows([row for row, out in zip(self._current, left_out, strict=True) if not out])
        self._write(self._with_values(table, values[~np.array(left_out, dtype=bool)]))
        self._note({self._table[KEY].iloc[row]: reason for row, reason in self._now_unreadable.items()})
        self._batch_done(self._current)
        self._current, self._now_unreadable = (), {}

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write what is unreadable of the last batches."""
        loader: Any = trainer.predict_dataloaders
        self._take_from(loader.read, to_a_batch=False)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Note an image that cannot be read, where the network reads it itself, row by row; see `goes_on_after`."""
        if self._data is None:
            return
        self._data.choose_predicted(None)
        reason, cause = why_unreadable(exception), exception.__cause__  # a network that reads rows may add where it was
        while reason is None and cause is not None:
            reason, cause = why_unreadable(cause), cause.__cause__
        goes_on = self._data.on_error == "skip" and len(self._current) == 1 and not is_stream(self.path)
        if reason is not None and goes_on and exception is not self._noted:
            self._noted = exception
            self._note({self._table[KEY].iloc[self._current[0]]: reason})
            self._batch_done(self._current)
        self._current, self._now_unreadable = (), {}

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Merge the files of several processes, in the order of the table."""
        if stage != "predict" or self._data is None or not self._columns:
            return
        self._data.choose_predicted(None)
        if is_stream(self.path):
            return
        trainer.strategy.barrier("predictions are written")
        if trainer.is_global_zero:
            place = {path: number for number, path in enumerate(self._all_rows()[KEY])}
            rows = sorted(merged(self.path, self._columns), key=lambda row: place.get(row[KEY], -1))  # others: before
            write_rows(self.path, self._columns, rows)
            for part in parts(self.path):
                part.unlink()
            self.unreadable = {row[KEY]: row[ERROR] for row in rows if row[ERROR] and row[KEY] in place}
            if self.path != self._out:
                self.unreadable = cast(Any, self._data).write_slides(self._out)
        trainer.strategy.barrier("predictions are merged")
        self.path = self._out

    def goes_on_after(self, error: BaseException) -> bool:
        """Whether an error that ended `Trainer.predict` is of one image, which is noted, and so predicting may go on.

        That is so where images are lazy and batches of one: their rows are decoded by the network.
        """
        return self._noted is error

    # -- inside --------------------------------------------------------------------------------------------------------

    def _write_tiles(self, path: Path) -> None:
        """Write to another file, of tiles, from which that of slides is made.

        Raises:
            ValueError: if that cannot be done here.
            PredictionFileError: if the file of slides is another one.
        """
        if type(self) is not PredictionWriter or is_stream(self._out):
            raise ValueError(
                "tiles and their slides are written to two files, by one job. Name a file, without share= or executor=."
            )
        if self._out.exists() and not path.exists() and not self.overwrite:
            raise PredictionFileError(
                f"'{self._out}' exists, and was not made of tiles ('{path.name}' is not beside it). Name another file, "
                "or pass overwrite= to replace it."
            )
        self.path = path

    def _begin(self, trainer: Trainer, pl_module: LightningModule) -> list[Sequence[int]]:
        """Make or resume the file; the rows that each process predicts."""
        data = self._known
        self._table = _with_key(data.tables["predict"])
        self._has = {"split": bool((self._table["split"] != "").any()), "label": bool(self._labeled())}
        self._places = [name for name in ("x_lv0", "y_lv0") if name in self._table]
        names = self._names or data.class_names
        self._outputs = tuple(names)
        self._columns = self._columns_of(len(names)) if names else []
        self._settings = {
            "model": weights_digest(pl_module),
            "reading": data.geometry(),
            "precision": str(trainer.precision),
        }
        if "paths" in self._table.columns:
            self._settings["slides"] = json_sha256(
                [[case, [*map(shown, paths)]] for case, paths in self._table[["image_id", "paths"]].to_numpy().tolist()]
            )
        processes = trainer.world_size
        self._process = trainer.global_rank
        if not names:  # their number shows at the first batch
            raise ValueError(
                "the data module knows no class names to write predictions under. Pass "
                "PredictionWriter(class_names=[...]), or a data module made by from_checkpoint."
            )
        finished = {*trainer.strategy.broadcast(self._take_up(trainer)), *self.unreadable}
        if trainer.is_global_zero:
            skipped = self._all_rows()
            skipped = skipped[~skipped[KEY].isin(self._table[KEY])]
            reasons = dict(zip(map(shown, data.skipped[KEY]), data.skipped["reason"], strict=True))
            self._note(
                {
                    path: " ".join(reasons[path].split()).removeprefix(f"{path}: ")
                    for path in skipped[KEY]
                    if path not in self.unreadable
                }
            )
        return self._chosen(finished, processes)

    def _take_up(self, trainer: Trainer) -> list[str]:
        """Make or resume the file; images that it has, in the first process."""
        done: list[str] = []
        if trainer.is_global_zero:
            rows = begin(self.path, self._columns, self._settings, overwrite=self.overwrite)
            done = [row[KEY] for row in rows if not row[ERROR]]
        self.overwrite = False  # what this writer wrote is kept if it goes on
        return done

    def _chosen(self, finished: set[str], processes: int) -> list[Sequence[int]]:
        """The rows that each process predicts."""
        return [self._share(number, processes, finished) for number in range(processes)]

    def _batch_done(self, rows: Sequence[int]) -> None:
        """Called when all rows of a batch are written."""

    def _share(self, process: int, processes: int, finished: set[str]) -> list[int]:
        """Rows of a process, in whole batches: networks round otherwise in batches of another size."""
        rows, size = list(range(process, len(self._table), processes)), self._known.batch_size
        paths = self._table[KEY].tolist()
        batches = [rows[start : start + size] for start in range(0, len(rows), size)]
        return [row for batch in batches if not all(paths[one] in finished for one in batch) for row in batch]

    @property
    def _known(self) -> Predicted:
        assert self._data is not None  # set by `setup`
        return self._data

    def _labeled(self) -> bool:
        return bool((self._known.labels.frame["label_name"] != "").any())

    def _columns_of(self, outputs: int) -> list[str]:
        prefix = _PREFIXES.get(self._known.target, "probability_")
        columns = ["image", KEY, *self._places, *(name for name, has in self._has.items() if has)]
        columns += [] if self._known.target in _PREFIXES else ["predicted"]
        columns += [RISK] if self._known.target == "survival" else []
        columns += [EXPECTED_RANK] if self._known.target == "ordinal" else []
        columns += [f"{prefix}{name}" for name in self._outputs]
        return [*columns, ERROR]

    def _all_rows(self) -> pd.DataFrame:
        """All rows to predict, with those that are left out since their headers cannot be read."""
        frame = _with_key(by_case(self._known.labels.frame))
        wanted, out = self._table["image_id"], self._known.skipped
        out = out[out["split"].isin(set(self._table["split"]))]
        if "case" in self._known.labels.frame:
            lost = frame["paths"].map(set(out[KEY]).issuperset)
            first = dict(zip(wanted, self._table[KEY], strict=True))  # of those that are left
            frame[KEY] = frame["image_id"].map(first).fillna(frame[KEY])
            return frame[frame["image_id"].isin(wanted) | lost]
        return frame[frame["image_id"].isin(wanted) | frame["image_id"].isin(out["image_id"])]

    def _take_from(self, read: deque[Any], *, to_a_batch: bool) -> None:
        """Take out what batches are made of, and note the empty ones, up to the next that is not."""
        while read:
            about = read.popleft()
            if not about.is_empty:
                assert to_a_batch
                self._current, self._now_unreadable = about.rows, about.unreadable
                return
            self._note({self._table[KEY].iloc[row]: reason for row, reason in about.unreadable.items()})
            self._batch_done(about.rows)

    def _note(self, reasons: Mapping[str, str]) -> None:
        """Write rows of images that cannot be read."""
        if not reasons:
            return
        self.unreadable.update(reasons)
        frame = self._all_rows()
        table = self._described(frame[frame[KEY].isin(reasons.keys())])
        table[ERROR] = [reasons[path] for path in table[KEY]]
        self._write(table)

    def _rows(self, numbers: Sequence[int]) -> pd.DataFrame:
        return self._described(self._table.iloc[list(numbers)])

    def _described(self, frame: pd.DataFrame) -> pd.DataFrame:
        """What is known of rows before any prediction."""
        table = pd.DataFrame({"image": frame["image_id"].to_numpy(), KEY: frame[KEY].to_numpy()}, dtype=object)
        for name in self._places:
            table[name] = frame[name].to_numpy()
        for name, column in (("split", "split"), ("label", "label_name")):
            if self._has[name]:
                table[name] = frame[column].to_numpy()
        return table

    def _with_values(self, table: pd.DataFrame, values: NDArray[Any]) -> pd.DataFrame:
        """Rows with predictions; those that are no numbers are errors."""
        finite = np.isfinite(values).all(axis=1)
        if self._known.target not in _PREFIXES:
            table["predicted"] = [
                self._decided(row) if is_number else "" for row, is_number in zip(values, finite, strict=True)
            ]
        values = np.where(finite[:, None], values, np.nan).astype(values.dtype)
        if self._known.target == "ordinal":
            table[EXPECTED_RANK] = expected_rank(values)
        if self._known.target == "survival":
            table[RISK] = 1 - values.mean(axis=1)
        columns = [name for name in self._columns if name.startswith(("value_", "probability_", SURVIVAL_PREFIX))]
        numbers = pd.DataFrame(values, columns=columns, index=table.index)
        table = pd.concat([table, numbers], axis=1)
        table[ERROR] = ["" if one else "the prediction is not a number (nan or infinite)" for one in finite]
        self.unreadable.update({path: error for path, error in table[[KEY, ERROR]].to_numpy() if error})
        return table

    def _decided(self, row: NDArray[Any]) -> str:
        """The most probable or median class, or the labels that are more probable than not."""
        if self._known.target == "multilabel":
            return ";".join(name for name, value in zip(self._outputs, row, strict=True) if value >= 0.5)
        return self._outputs[int(decided(row[None], ordered=self._known.target == "ordinal")[0])]

    def _write(self, table: pd.DataFrame) -> None:
        if len(table):
            table = table.reindex(columns=self._columns, fill_value="")
            append(part_of(self.path, self._process), self._columns, as_cells(table))

    def _checked(self, outputs: Any, pl_module: LightningModule) -> NDArray[Any]:
        """Predictions as (B, K) floats.

        Raises:
            ValueError: if they are something else, or no probabilities where classes are predicted.
        """
        step = f"predict_step of {type(pl_module).__name__}"
        shape = (len(self._current), len(self._outputs))
        if not isinstance(outputs, Tensor) or outputs.shape != shape or not outputs.is_floating_point():
            got = f"{outputs.dtype} {tuple(outputs.shape)}" if isinstance(outputs, Tensor) else type(outputs).__name__
            raise ValueError(
                f"{step} returned {got}, and PredictionWriter writes floats of shape (images, outputs), here {shape}, "
                f"of {', '.join(self._outputs)}. Return these, or pass class_names= for other outputs."
            )
        values: NDArray[Any] = (outputs if outputs.dtype == torch.float64 else outputs.float()).cpu().numpy().copy()
        known = values[np.isfinite(values).all(axis=1)]
        if self._known.target == "regression" or not known.size:
            return values
        if self._known.target == "survival":
            if known.min() < 0 or known.max() > 1 or (np.diff(known, axis=1) > 0).any():
                raise ValueError(
                    f"{step} returned {known[0].tolist()}, which are no probabilities of surviving until "
                    f"{', '.join(self._outputs)}: these lie in 0..1 and never increase. Return the survival curve."
                )
            return values
        off = abs(known.sum(axis=1) - 1).max() > _SUM and self._known.target in ONE_CLASS
        if off or known.min() < 0 or known.max() > 1:
            function = "softmax" if self._known.target in ONE_CLASS else "sigmoid"
            raise ValueError(
                f"{step} returned {known[0].tolist()}, which are no probabilities of "
                f"{', '.join(self._outputs)}. Return them after {function}."
            )
        return values


def _with_key(samples: pd.DataFrame) -> pd.DataFrame:
    """Samples with the column by which they are known; for cases that is the file of their first slide."""
    files = samples[KEY] if KEY in samples.columns else [paths[0] for paths in samples["paths"]]
    return samples.assign(**{KEY: [shown(file) for file in files]})


def weights_digest(module: LightningModule) -> str:
    """SHA-256 of a network's class, weights, buffers and plain hyper-parameters, in hexadecimal."""
    digest = hashlib.sha256(type(module).__name__.encode())
    plain = {
        name: value
        for name, value in sorted(module.hparams.items())
        if isinstance(value, (str, int, float, bool, type(None)))
    }
    digest.update(json.dumps(plain, sort_keys=True).encode())
    for name, value in sorted(module.state_dict().items()):
        if isinstance(value, Tensor):
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
