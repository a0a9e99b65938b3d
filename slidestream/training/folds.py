"""Cross-validation, one training run for each fold, and what they say together."""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from slidestream.training.evaluate import main_scores
from slidestream.training.run_folder import RunFolder, default_folder
from wsidata.evaluation import read_predictions, read_scores, save_table, write_report
from wsidata.evaluation.predictions import NUMBERS, SURVIVAL_PREFIX, classes_of, decided


@dataclass(frozen=True)
class Folds:
    """Which folds to train.

    Attributes:
        count: Number of folds.
        only: The one to train, as a job of an array does; None: all, one after the other, and then sum up.
    """

    count: int
    only: int | None


def take_folds(arguments: Sequence[str]) -> tuple[list[str], Folds | None]:
    """Split --folds and --fold from the arguments of fit.

    Raises:
        ValueError: if they do not go together.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, prog="slidestream fit")
    parser.add_argument("--folds", type=int)
    parser.add_argument("--fold", type=int)
    own, others = parser.parse_known_args(arguments)
    if own.folds is None:
        if own.fold is not None:
            raise ValueError(f"--fold {own.fold} needs --folds, the number of folds.")
        return others, None
    if own.folds < 2:
        raise ValueError(f"--folds {own.folds} must be at least 2.")
    if own.fold is not None and not 0 <= own.fold < own.folds:
        raise ValueError(f"--fold {own.fold} must be one of 0 .. {own.folds - 1}.")
    return others, Folds(own.folds, own.fold)


def fit_folds(arguments: Sequence[str], folds: Folds) -> int:
    """Train each fold in a process of its own, in the folder fold_N of the run; those that are finished stay.

    Args:
        arguments: Those of fit, with files of configurations.
        folds: Which folds.

    Returns:
        0; else the exit status of the fold that failed.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--out", type=Path)
    parser.add_argument("-c", "--config")
    own, _ = parser.parse_known_args(arguments)
    out: Path = own.out or default_folder(own.config)
    for fold in range(folds.count) if folds.only is None else [folds.only]:
        run = RunFolder(out / f"fold_{fold}")
        if run.facts().get("finished"):
            print(f"Fold {fold} of {folds.count} is finished: {run.path}", flush=True)
            continue
        print(f"Fold {fold} of {folds.count}: {run.path}", flush=True)
        resumed = ["--ckpt_path=last"] if any(run.checkpoints.glob("last*.ckpt")) else []
        command = [sys.executable, "-m", "slidestream", "fit", *arguments, *resumed]
        status = _call([*command, f"--data.k_fold={json.dumps([fold, folds.count])}", f"--out={run.path}"])
        if status:
            print(f"slidestream fit: fold {fold} ended with status {status}. Start again to go on.", file=sys.stderr)
            return status
    if folds.only is None:
        print(sum_up(out, folds.count))
    return 0


def _call(command: Sequence[str]) -> int:
    """Exit status of a process, to which the signal of a job's approaching end is passed on.

    SLURM signals only the processes that srun has started.
    """
    if not hasattr(signal, "SIGUSR1") or threading.current_thread() is not threading.main_thread():
        return subprocess.call(command)
    with subprocess.Popen(command) as process:
        before = signal.signal(signal.SIGUSR1, lambda *_: process.send_signal(signal.SIGUSR1))
        try:
            return process.wait()
        except BaseException:  # as subprocess.call
            process.kill()
            raise
        finally:
            signal.signal(signal.SIGUSR1, before)


def sum_up(out: Path, count: int) -> str:
    """Write folds.csv and predictions.csv of all folds, and return the mean and spread as text.

    Validation images are predicted by the network of the one fold that was not trained on them. Test images are
    predicted by all of them: the mean of the probabilities, or numbers.

    Args:
        out: The run folder, with fold_0, fold_1, ... in it.
        count: Number of folds.
    """
    scores, validated, tested = [], [], []
    for fold in range(count):
        predictions = read_predictions(out / f"fold_{fold}" / "predictions.csv")
        predictions = predictions[[name for name in predictions.columns if not name.startswith(SURVIVAL_PREFIX)]]
        scores.append(read_scores(out / f"fold_{fold}" / "scores.csv").assign(fold=fold))
        validated.append(predictions[predictions["split"] == "val"].assign(fold=str(fold)))
        tested.append(predictions[predictions["split"] == "test"])
    folds = pd.concat(scores, ignore_index=True)
    task = str(RunFolder(out / "fold_0").facts().get("task"))
    save_table(folds, out / "folds.csv")
    save_table(pd.concat([*validated, ensemble(tested, task)], ignore_index=True), out / "predictions.csv")
    report = write_report(out)
    return (
        f"{describe_folds(folds)}\n\n  in {out}/: {report.name}, folds.csv, predictions.csv, and a folder for each fold"
    )


def describe_folds(folds: pd.DataFrame) -> str:
    """Mean, standard deviation (n - 1) and range of the main scores over the folds, as text."""
    lines = [f"\n  over {folds['fold'].nunique()} folds: mean and standard deviation, lowest and highest"]
    for (split, target, score), part in main_scores(folds).groupby(["split", "target", "score"], sort=False):
        values, name = part["value"], f"{split} {str(score).replace('_', ' ')} {target}".strip()
        lines.append(
            f"    {name:<26} {values.mean():.3f} ± {values.std():.3f}   {values.min():.3f} to {values.max():.3f}"
        )
    return "\n".join(lines)


def ensemble(tables: Sequence[pd.DataFrame], task: str) -> pd.DataFrame:
    """Prediction table of the mean of the probabilities, or numbers, of several networks.

    An image that one of them could not predict has no mean, and the reason in the column `error`.

    Args:
        tables: A table of each network.
        task: "multiclass", "ordinal", "multilabel", "regression" or "survival", of which the mean risk is kept.

    Raises:
        ValueError: if they are not of the same images.
    """
    first = tables[0].reset_index(drop=True)
    if any(table["path"].tolist() != first["path"].tolist() for table in tables):
        raise ValueError("the folds have predicted different images: train them with the same data and arguments.")
    if task == "survival":  # intervals of time are those of the training images of each fold
        first = first.drop(columns=[name for name in first.columns if name.startswith(SURVIVAL_PREFIX)])
    names = [name for name in first.columns if name.startswith(NUMBERS)]
    mean = np.mean([table[names].to_numpy(dtype=float) for table in tables], axis=0)
    table = first.assign(**dict(zip(names, mean.T, strict=True)))
    classes = classes_of(table)
    if task in ("multiclass", "ordinal"):
        probabilities = table[[f"probability_{name}" for name in classes]].to_numpy(dtype=float)
        table["predicted"] = [classes[best] for best in decided(probabilities, ordered=task == "ordinal")]
    elif task == "multilabel":
        chosen = [[name for name, value in zip(classes, row, strict=True) if value >= 0.5] for row in mean]
        table["predicted"] = [";".join(labels) for labels in chosen]
    if "error" in table:
        reasons = pd.concat([one["error"].reset_index(drop=True) for one in tables], axis=1)
        table["error"] = [next((reason for reason in row if reason), "") for row in reasons.to_numpy()]
    if "predicted" in table:
        table.loc[np.isnan(mean).any(axis=1), "predicted"] = ""
    return table
