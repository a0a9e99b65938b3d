"""What a run folder holds for its report; every file may be missing."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any, TypeVar

import pandas as pd

from wsidata.evaluation.predictions import read_predictions
from wsidata.tables.cells import restored

_Read = TypeVar("_Read")
_KNOWN = ("predictions.csv", "metrics.csv", "split.csv", "scores.csv", "leaks.csv", "run.json")


@dataclass
class Contents:
    """Files of a run folder, or a table of predictions alone.

    Attributes:
        folder: The folder.
        predictions: predictions.csv; None if there is none.
        metrics: metrics.csv, as Lightning's CSVLogger writes it.
        split: split.csv.
        leaks: leaks.csv; without rows if nothing leaks.
        facts: run.json.
        heat_maps: Images of the folder heatmaps.
        folds: Contents of the folders fold_0, fold_1, ..., in order.
        problems: Files that could not be read, with the reason.
        alone: Whether there is a table of predictions, and no folder.
    """

    folder: Path
    predictions: pd.DataFrame | None = None
    metrics: pd.DataFrame | None = None
    split: pd.DataFrame | None = None
    leaks: pd.DataFrame | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    heat_maps: list[Path] = field(default_factory=list)
    folds: list[Contents] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    alone: bool = False

    @property
    def groups(self) -> dict[str, str] | None:
        """Patient of each image, where split.csv says so."""
        if self.split is None or "group" not in self.split or "image_id" not in self.split:
            return None
        samples = self.split["case" if "case" in self.split else "image_id"]
        return dict(zip(samples, self.split["group"], strict=True))


def read_contents(source: Path) -> Contents:
    """What there is to report.

    Args:
        source: A run folder, or a table of predictions.

    Raises:
        FileNotFoundError: if there is no such folder or file, or nothing in the folder to report.
        PredictionError: if the table cannot be read. Other damaged files are listed in `problems`.
    """
    if source.is_file():
        return Contents(source.parent, predictions=read_predictions(source), alone=True)
    if not source.is_dir():
        raise FileNotFoundError(f"'{source}' is neither a run folder nor a table of predictions. Check the path.")
    contents = _read_folder(source)
    numbered = {int(found[1]): path for path in source.iterdir() if (found := re.fullmatch(r"fold_(\d+)", path.name))}
    contents.folds = [_read_folder(numbered[number]) for number in sorted(numbered) if numbered[number].is_dir()]
    if not contents.folds and not any((source / name).is_file() for name in _KNOWN):
        raise FileNotFoundError(
            f"'{source}' holds nothing to report (looked for {', '.join(_KNOWN)} and fold_0). Name the folder that "
            "slidestream fit wrote, or a table of predictions."
        )
    return contents


def _read_folder(folder: Path) -> Contents:
    problems: list[str] = []

    def read(name: str, reader: Callable[[Path], _Read]) -> _Read | None:
        path = folder / name
        if not path.is_file():
            return None
        try:
            return reader(path)
        except (ValueError, OSError, LookupError) as error:  # damaged, cut off, or of another program
            problems.append(f"{folder.name}/{name} could not be read: {error}")
            return None

    maps = folder / "heatmaps"
    return Contents(
        folder,
        read("predictions.csv", read_predictions),
        read("metrics.csv", _read_metrics),
        read("split.csv", _read_text),
        read("leaks.csv", _read_text),
        read("run.json", _read_facts) or {},
        sorted(path for path in maps.glob("*.png") if path.is_file()) if maps.is_dir() else [],
        problems=problems,
    )


def _read_text(path: Path) -> pd.DataFrame:
    return restored(pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig"))


def _read_metrics(path: Path) -> pd.DataFrame:
    table = pd.read_csv(path)
    return pd.DataFrame({name: pd.to_numeric(table[name], errors="coerce") for name in table.columns})


def _read_facts(path: Path) -> dict[str, Any]:
    facts = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(facts, dict):
        raise ValueError("it is no JSON object")
    return facts


def heat_map_of(images: list[str], heat_maps: list[Path]) -> dict[str, list[Path]]:
    """Heat maps of each image, by file name: the name of the image, and anything behind it.

    A file that fits several images is that of the longest name; one that fits two equally long is of neither.

    Args:
        images: All images that there are, not only those to show.
        heat_maps: The files.
    """
    owners: dict[str, set[str]] = {}
    for image in images:
        for name in {image, image.replace("/", "_"), PurePath(image).name, PurePath(image).stem}:
            owners.setdefault(name, set()).add(image)
    found: dict[str, list[Path]] = {}
    for path in heat_maps:
        stem = path.name.removesuffix(".png")
        ends = [end for end in range(len(stem), 0, -1) if end == len(stem) or stem[end] in "_-. "]
        names = next((owners[stem[:end]] for end in ends if stem[:end] in owners), set())
        if len(names) == 1:
            found.setdefault(next(iter(names)), []).append(path)
    return found
