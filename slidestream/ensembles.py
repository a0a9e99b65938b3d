"""Predictions of all networks of a cross-validation on new images, averaged."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from slidestream.predicting import Done, predict
from slidestream.trained import TASK_OF_TARGET, CheckpointError
from slidestream.training.folds import ensemble
from slidestream.training.run_folder import RunFolder
from wsidata.datamodules.restore import recall
from wsidata.evaluation import read_predictions
from wsidata.evaluation.prediction_file import as_cells, check_same, is_stream, sidecar, write_rows
from wsidata.utils.files import write_text


def is_run_of_folds(path: str | Path) -> bool:
    """Whether a path is the folder of a run with --folds."""
    return Path(path).is_dir() and any(Path(path).glob("fold_*"))


def predict_folds(run: str | Path, images: Any, out: str | Path, *, overwrite: bool = False, **options: Any) -> Done:
    """Predict new images by the networks of all folds, one after the other, and write the mean.

    What each of them predicts is kept in a folder beside the file, `<out>.folds/fold_0.csv` and so on; a run that was
    interrupted goes on there. An image that one of them cannot read has no mean, and the reason in the column `error`.

    Args:
        run: The folder, with fold_0, fold_1, ... in it.
        images: See `slidestream.predicting.predict`, as for `options`.
        out: CSV file to write in the end.
        overwrite: Replace it, and what is in the folder beside it.
        **options: Other arguments of `predict`.

    Raises:
        ValueError, OSError: naming what cannot be used; what was predicted before is kept.
    """
    checkpoints, task = _checkpoints(Path(run))
    out = Path(out).absolute()
    if is_stream(out):
        raise ValueError(f"'{out}' keeps no rows, and the mean over folds needs them. Name a file with out=.")
    facts = {"version": 1, "ensemble": [str(one.absolute()) for one in checkpoints]}
    if not overwrite:
        check_same(out, facts)
    tables: list[Path] = []
    unreadable: dict[str, str] = {}
    for number, checkpoint in enumerate(checkpoints):
        file = out.with_name(f"{out.name}.folds") / f"fold_{number}.csv"
        done = predict(checkpoint, images, file, overwrite=overwrite, **options)
        unreadable |= done.unreadable
        tables.append(file)
    if done.is_first:
        mean = ensemble(_of_the_same([read_predictions(file) for file in tables]), task)
        write_text(sidecar(out), json.dumps(facts, indent=1))
        write_rows(out, list(mean.columns), as_cells(mean))
    return replace(done, out=out, unreadable=unreadable)


def _checkpoints(run: Path) -> tuple[list[Path], str]:
    """The best checkpoint of each fold, in order, and their task.

    Raises:
        CheckpointError: if folds are missing or not finished, or their networks are of different images or classes.
    """
    first, count = None, len(list(run.glob("fold_*")))
    found: list[Path] = []
    while len(found) < count:
        fold = RunFolder(run / f"fold_{len(found)}")
        checkpoint = fold.checkpoints / "best.ckpt"
        if not checkpoint.is_file() or not fold.facts().get("finished"):
            raise CheckpointError(
                f"'{fold.path}' is not trained to its end, and the mean is one of all folds. Train it (slidestream fit "
                "with --folds), or name the checkpoint of one fold."
            )
        memory, settings = recall(checkpoint)
        what = {name: memory.get(name) for name in ("class_names", "target", "geometry")}
        if what["target"] == "survival":
            del what["class_names"]  # intervals, drawn from the training images of each fold
        first = first or what
        differs = [name for name in what if what[name] != first[name]]
        if differs:
            raise CheckpointError(
                f"'{checkpoint}' differs from that of fold 0 in its {differs[0]}: {what[differs[0]]}, and not "
                f"{first[differs[0]]}. Name the checkpoint of one fold, or train all with the same arguments."
            )
        k_fold = settings.get("k_fold")
        if k_fold is not None:
            count = max(count, int(k_fold[1]))
            if int(k_fold[0]) != len(found):
                raise CheckpointError(f"'{checkpoint}' is of fold {k_fold[0]}. Give the folders their names back.")
        found.append(checkpoint)
    target = str((first or {}).get("target") or "class")
    return found, TASK_OF_TARGET.get(target, target)


def _of_the_same(tables: list[pd.DataFrame]) -> list[pd.DataFrame]:
    """The rows of images that are in all tables, in the order of the first: one may have rows of a call before."""
    common = set.intersection(*(set(table["path"]) for table in tables))
    order = [path for path in tables[0]["path"] if path in common]
    return [table.set_index("path", drop=False).loc[order].reset_index(drop=True) for table in tables]
