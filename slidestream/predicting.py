"""Predictions of a checkpoint's network on new images, from files to a table."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from lightning import LightningModule, Trainer

from slidestream.trained import Trained, load_trained
from slidestream.training.noise import hush
from slidestream.training.run_folder import show_progress
from wsidata import FeatureBagDataModule, ImageFolderDataModule, SplitDataModule, TileDataModule, WSIDataModule
from wsidata.datamodules.restore import Images, recall
from wsidata.evaluation import (
    PredictionWriter,
    accuracy,
    auroc,
    balanced_accuracy,
    quadratic_kappa,
    read_predictions,
    scores_with_intervals,
)
from wsidata.evaluation.prediction_file import ERROR, KEY, Row
from wsidata.evaluation.predictions import EXPECTED_RANK, RISK
from wsidata.evaluation.spread.executor import CollectingWriter, ExecutorWriter
from wsidata.evaluation.spread.shared import SharedWriter
from wsidata.remote.address import is_address
from wsidata.splits.unreadable import SkipWarning
from wsidata.tables.bare_folder import list_images
from wsidata.tables.find_photos import PhotoFolder
from wsidata.tables.find_slides import FeatureFolder, ImageFolder
from wsidata.tables.label_table import by_case
from wsidata.tables.parts import SplitError
from wsidata.tables.targets import ONE_CLASS
from wsidata.tables.text_table import TableError, read_text_table
from wsidata.utils.messages import bullets

_TABLES = {".csv", ".tsv", ".txt", ".parquet", ".pq"}
_MODULES: dict[str, type[SplitDataModule]] = {
    "slides": WSIDataModule,
    "photos": ImageFolderDataModule,
    "features": FeatureBagDataModule,
}
_FINDERS: dict[str, type[ImageFolder]] = {"slides": ImageFolder, "photos": PhotoFolder, "features": FeatureFolder}
_SHOWN = 5


@dataclass(frozen=True)
class Done:
    """What became of a prediction run.

    Attributes:
        out: The table.
        images: Number of images.
        unreadable: Why images could not be predicted, by path.
        is_labeled: Whether the truth is known.
        is_first: Whether this is the first of several processes, which knows what all did.
        is_of_cases: Whether samples are cases of several slides.
    """

    out: Path
    images: int
    unreadable: Mapping[str, str]
    is_labeled: bool
    is_first: bool
    is_of_cases: bool = False

    def summary(self) -> str:
        """What was predicted, what could not be read, and the scores, if labels are known."""
        lines = [f"{self.images - len(self.unreadable)} of {self.images} images predicted: {self.out}"]
        if self.unreadable:
            reasons = [f"{path}: {reason}" for path, reason in self.unreadable.items()]
            lines.append(f"{len(reasons)} could not be (column error):{bullets(reasons, _SHOWN)}")
        if self.is_labeled:
            table = read_predictions(self.out)
            table = table[(table["error"] == "") & (table["label"] != "")]
            if RISK in table:
                index = scores_with_intervals(table.assign(split="test"), resamples=0)["value"]
                lines.append(f"concordance index {index.iloc[0]:.3f}, of {len(table)} images with labels")
                return "\n".join(lines)
            if EXPECTED_RANK in table:
                other = f"quadratic weighted kappa {quadratic_kappa(table):.3f}"
            elif sum(name.startswith("probability_") for name in table.columns) == 2:
                other = f"AUROC {auroc(table):.3f}"
            else:
                other = f"balanced accuracy {balanced_accuracy(table):.3f}"
            lines.append(f"accuracy {accuracy(table):.3f}, {other}, of {len(table)} images with labels")
        return "\n".join(lines)


def predict(
    checkpoint: str | Path,
    images: Sequence[str | Path],
    out: str | Path,
    *,
    overwrite: bool = False,
    model_class: str | None = None,
    columns: Mapping[str, Any] | None = None,
    loading: Mapping[str, Any] | None = None,
    changed: Mapping[str, Any] | None = None,
    trainer: Mapping[str, Any] | None = None,
    share: bool = False,
    executor: Executor | None = None,
    quiet: bool = True,
) -> Done:
    """Predict new images, and write a row of each as it comes.

    Args:
        checkpoint: The checkpoint, or what else `load_trained` takes.
        images: Files, folders, or one table; of slides also addresses, such as "https://host/a.tif".
        out: CSV file; what it holds already of this network is not predicted again.
        overwrite: Replace the file.
        model_class: See `load_trained`.
        columns: `image_dir`, `image_column`, `label_column` and `case_column`; None, or left out: as in training.
        loading: `num_workers`, `batch_size`, `stage_dir` and `stage_max_bytes`.
        changed: Settings by which images are read otherwise than in training; see `SplitDataModule.from_checkpoint`.
        trainer: Arguments of the Trainer.
        share: Share the work with other jobs of the same arguments, on any machines; the file is written when all is
            predicted.
        executor: Processes, here or on other machines, each with a network of its own, which predict the images; they
            need the same files under the same paths. `process_pool(n)`, or Dask's `client.get_executor(pure=False)`
            with one thread a worker. Images are read by the same processes, whatever `num_workers` is.
        quiet: Draw no progress bar.

    Raises:
        ValueError, OSError: naming what cannot be used; what was predicted before is kept.
        PoolError: if the executor ends, as when the system kills one of its processes.
    """
    hush()
    warnings.simplefilter("ignore", SkipWarning)  # the table and the summary name them
    trained = load_trained(checkpoint, model_class)
    data = make_data(trained.checkpoint, images, dict(columns or {}), loading or {}, changed or {})
    _check_some_readable(data)
    if share and overwrite:
        raise ValueError(f"overwrite= is not for jobs that share= a file. Remove '{out}' before they start.")
    names = trained.class_names or None
    writer: PredictionWriter
    if executor is not None:
        if share:
            raise ValueError("executor= and share= both spread the work. Pass one of them.")
        how = data.batch_size, changed or {}, trainer or {}, names
        elsewhere = Elsewhere(str(trained.checkpoint.absolute()), model_class, *how)
        writer = ExecutorWriter(out, elsewhere, executor, overwrite=overwrite, class_names=names)
    elif share:
        writer = SharedWriter(out, class_names=names)
    else:
        writer = PredictionWriter(out, overwrite=overwrite, class_names=names)
    run = _run(trained.model, data, writer, {"enable_progress_bar": not quiet and show_progress(), **(trainer or {})})
    labeled = data.target in (*ONE_CLASS, "survival") and bool((data.labels.frame["label_name"] != "").any())
    count = len(by_case(data.labels.frame))
    return Done(writer.path, count, writer.unreadable, labeled, run.is_global_zero, bool(data.case_geometry))


def _run(
    model: LightningModule, data: SplitDataModule, writer: PredictionWriter, options: Mapping[str, Any]
) -> Trainer:
    """Predict until all is written; images whose pixels cannot be read end a Trainer, and not this."""
    while True:
        trainer = Trainer(
            logger=False, enable_checkpointing=False, enable_model_summary=False, callbacks=writer, **options
        )
        try:
            trainer.predict(model, datamodule=data, return_predictions=False)
            if not isinstance(writer, SharedWriter) or not writer.goes_on():
                return trainer
        except Exception as error:
            if not writer.goes_on_after(error):
                raise


@dataclass(frozen=True)
class Elsewhere:
    """Predicts batches in another process; sent to the workers of an executor. For the attributes see `predict`."""

    checkpoint: str
    model_class: str | None
    batch_size: int
    changed: Mapping[str, Any]
    trainer: Mapping[str, Any]
    class_names: tuple[str, ...] | None

    def __call__(self, paths: Sequence[str]) -> list[Row]:
        """The rows of a batch, with an error for each image that cannot be read."""
        hush()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the process that asks has warned, and names what is left out
            trained = _load_once(self.checkpoint, self.model_class)
            loading = {"num_workers": 0, "batch_size": self.batch_size}
            data = make_data(Path(self.checkpoint), paths, {}, loading, self.changed)
            try:
                _ = data.skipped
            except SplitError:  # none of them can be read
                reasons = data.find_unreadable().values()
                return [{KEY: path, ERROR: reason} for path, reason in zip(paths, reasons, strict=True)]
            writer = CollectingWriter(paths, self.class_names or data.class_names)
            _run(trained.model, data, writer, {"enable_progress_bar": False, **self.trainer})
        return writer.rows


@lru_cache(maxsize=1)
def _load_once(checkpoint: str, model_class: str | None) -> Trained:
    """The network of a worker, for all its batches."""
    return load_trained(checkpoint, model_class)


def make_data(
    checkpoint: Path,
    images: Sequence[str | Path],
    columns: Mapping[str, Any],
    loading: Mapping[str, Any],
    changed: Mapping[str, Any],
) -> SplitDataModule:
    """The data module of new images; for the arguments see `predict`."""
    memory, before = recall(checkpoint)
    kind = str(memory["geometry"]["kind"])
    if "kind" in changed.get("allow_changed", ()) and not any(map(is_address, images)):
        kind = _kind_of(images, kind)
    source = _source(images, kind)
    given = {name: value for name, value in {**loading, **changed}.items() if value is not None}
    if isinstance(source, Path) and source.suffix.lower() in _TABLES:
        given |= _columns(source, columns, before)
    elif any(value is not None for value in columns.values()):
        raise ValueError(
            "image_dir=, image_column=, label_column= and case_column= are for tables. Leave them out, or name a table."
        )
    module = _MODULES[kind]
    if kind == "slides" and "min_tissue" in before:
        module = TileDataModule
        given.setdefault("batch_size", before.get("batch_size"))
        if before.get("annotation_dir") is not None:
            given["label_column"] = None  # a table does not label tiles
    elif kind == "slides":
        given["lazy"] = bool(before.get("lazy"))  # rounds otherwise than read whole
    folder = columns.get("image_dir")
    make = partial(module.from_checkpoint, checkpoint, source, folder, on_error="skip")
    try:
        return make(**given)
    except (TableError, SplitError) as error:
        if given.get("label_column") is None or columns.get("label_column") is not None:
            raise
        data = make(**{**given, "label_column": None})  # raises if it is not the labels
        warnings.warn(
            f"there will be no scores, as the labels of '{source}' cannot be read: {' '.join(str(error).split())} "
            "Pass --label-column none to leave them unread.",
            stacklevel=2,
        )
        return data


def _check_some_readable(data: SplitDataModule) -> None:
    """Raise `ValueError` if no image can be read."""
    try:
        _ = data.skipped
    except SplitError as error:
        reasons = list(data.find_unreadable().values())
        raise ValueError(f"none of the {len(reasons)} images can be read, the first since: {reasons[0]}") from error


def _kind_of(images: Sequence[str | Path], trained: str) -> str:
    """The other kind, if the images are that by their names."""
    names = [str(one) for one in images if not Path(one).is_dir() and Path(one).suffix.lower() not in _TABLES]
    other = "photos" if trained == "slides" else "slides"
    finder = _FINDERS[trained]
    return trained if names and all(finder.is_image_name(name) for name in names) else other


def _source(images: Sequence[str | Path], kind: str) -> Images:
    """A table, a folder, or a list of files or addresses."""
    if any(map(is_address, images)):
        return list(images)
    paths = [Path(one) for one in images]
    absent = next((path for path in paths if not path.exists()), None)
    if absent is not None:
        raise FileNotFoundError(f"'{absent}' does not exist. Name image files, folders of images, or one table.")
    tables = [path for path in paths if path.is_file() and path.suffix.lower() in _TABLES]
    if tables and len(paths) > 1:
        raise ValueError(f"'{tables[0]}' is a table, and is named alone: it says which images to predict.")
    if len(paths) == 1 and (tables or _is_plain_folder(paths[0])):
        return paths[0]
    finder = _FINDERS[kind]
    files: list[Path] = []
    for path in paths:
        folder = _is_plain_folder(path)
        files += [path / name for name in list_images(path, finder.is_image_name, finder.noun)] if folder else [path]
    return files


def _is_plain_folder(path: Path) -> bool:
    return path.is_dir() and not path.name.lower().endswith(".zarr")


def _columns(table: Path, given: Mapping[str, Any], trained: Mapping[str, Any]) -> dict[str, Any]:
    """The columns to read of a table: as given, else as in training, if it has them."""
    frame = read_text_table(table).frame
    there = set(frame.columns)
    image = given.get("image_column") or trained.get("image_column") or "image"
    label = given.get("label_column")
    if label is None and (before := trained.get("label_column")) is not None:
        names = [before] if isinstance(before, str) else before
        label = before if there.issuperset(names) else None
    label = None if label == "none" else label
    found = {"image_column": image if image in there else "image", "label_column": label}
    case = given.get("case_column") or trained.get("case_column")
    if given.get("case_column") is not None or case in there:
        found["case_column"] = case
    group = trained.get("group_column")
    if label is not None and group in there and bool((frame[group].astype(str).str.strip() != "").all()):
        found["group_column"] = group  # only to warn of patients that the network knows
    return found
