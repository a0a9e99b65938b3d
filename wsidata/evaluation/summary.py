"""Summaries of a run as text, to print at its end."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from wsidata.evaluation.predictions import SPLIT_TITLES
from wsidata.evaluation.scores import METRICS

_HEADINGS = {"balanced_accuracy": "balanced", "auroc": "AUROC"}


def summarize(scores: pd.DataFrame, folder: Path, files: Mapping[str, str]) -> str:
    """Scores of each split, and the files that a run wrote.

    Args:
        scores: See `scores_by_split`.
        folder: Folder of the files.
        files: Contents of each file, by file name; files that do not exist are left out.
    """
    headings = {name: _HEADINGS.get(name, name) for name in scores.columns if name != "split"}
    widths = {name: max(8, len(heading) + 2) for name, heading in headings.items()}
    lines = ["", f"  {'':<12}" + "".join(f"{heading:>{widths[name]}}" for name, heading in headings.items())]
    for row in scores.to_dict("records"):
        cells = "".join(f"{_text(row[name]):>{width}}" for name, width in widths.items())
        lines.append(f"  {SPLIT_TITLES[row['split']]:<12}{cells}")
    width = max(map(len, files)) + 2
    lines += ["", f"  in {folder}/"]
    lines += [f"    {name:<{width}}{contents}" for name, contents in files.items() if (folder / name).exists()]
    return "\n".join(lines)


def summarize_folds(folds: pd.DataFrame) -> str:
    """Mean, standard deviation (n - 1) and range of every score over the folds, for each split.

    Args:
        folds: Rows of `scores_by_split` for every fold, with its number in the column `fold`.
    """
    lines = ["", f"  over {folds['fold'].nunique()} folds: mean and standard deviation, lowest and highest"]
    for split, part in folds.groupby("split", sort=False):
        for name in (name for name in METRICS if name in folds):
            values = part[name]
            numbers = f"{values.mean():.3f} ± {values.std():.3f}   {values.min():.3f} .. {values.max():.3f}"
            lines.append(f"  {SPLIT_TITLES[str(split)]:<12}{name.replace('_', ' '):<19}{numbers}")
    return "\n".join(lines)


def _text(value: int | float) -> str:
    if isinstance(value, int):
        return str(value)
    return "-" if pd.isna(value) else f"{value:.3f}"
