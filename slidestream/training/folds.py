"""Cross-validation, one training run for each fold, and what they say together."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from slidestream.training.run_folder import RunFolder, default_folder
from wsidata.evaluation import save_table, summarize_folds


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
        status = subprocess.call([*command, f"--data.k_fold={json.dumps([fold, folds.count])}", f"--out={run.path}"])
        if status:
            print(f"slidestream fit: fold {fold} ended with status {status}. Start again to go on.", file=sys.stderr)
            return status
    if folds.only is None:
        print(sum_up(out, folds.count))
    return 0


def sum_up(out: Path, count: int) -> str:
    """Write folds.csv and predictions.csv of all folds, and return the mean and spread as text.

    Validation images are predicted by the network of the one fold that was not trained on them. Test images are
    predicted by all of them: the mean of the probabilities.

    Args:
        out: The run folder, with fold_0, fold_1, ... in it.
        count: Number of folds.
    """
    scores, validated, tested = [], [], []
    for fold in range(count):
        folder = out / f"fold_{fold}"
        scores.append(pd.read_csv(folder / "scores.csv").assign(fold=fold))
        predictions = pd.read_csv(folder / "predictions.csv", dtype={"image": str, "label": str, "predicted": str})
        validated.append(predictions[predictions["split"] == "val"].assign(fold=fold))
        tested.append(predictions[predictions["split"] == "test"])
    folds = pd.concat(scores, ignore_index=True)
    save_table(folds, out / "folds.csv")
    save_table(pd.concat([*validated, ensemble(tested)], ignore_index=True), out / "predictions.csv")
    return f"{summarize_folds(folds)}\n\n  in {out}/: folds.csv, predictions.csv, and a folder for each fold"


def ensemble(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Prediction table of the mean of the probabilities of several networks, of the same images in the same order."""
    first = tables[0].reset_index(drop=True)
    names = [name for name in first.columns if name.startswith("probability_")]
    if first.empty or not names:
        return first
    mean = np.mean([table[names].to_numpy() for table in tables], axis=0)
    table = first.assign(**dict(zip(names, mean.T, strict=True)))
    table["predicted"] = [names[best].removeprefix("probability_") for best in mean.argmax(axis=1)]
    return table
