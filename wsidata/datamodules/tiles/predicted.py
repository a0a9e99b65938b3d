"""Tiles as what `PredictionWriter` writes a row of each, and the mean of the tiles of each slide."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd

from wsidata.evaluation.prediction_file import ERROR, KEY
from wsidata.evaluation.predictions import NUMBERS, decided, read_predictions
from wsidata.evaluation.save import save_table
from wsidata.transforms.describe import described

_PLACES = ["x_lv0", "y_lv0"]


class TileSamples:
    """The tiles of a data module, each known by its slide's file and its place, as `file.tif#x=1024,y=512`.

    Args:
        data: A `TileDataModule` whose loaders yield single tiles.
    """

    def __init__(self, data: Any) -> None:
        self._data = data
        self.class_names, self.target = data.class_names, data.target
        self.batch_size, self.on_error, self.skipped = data.batch_size, data.on_error, data.skipped

    def geometry(self) -> dict[str, Any]:
        """How tiles are read, and which there are."""
        grid = self._data.grid
        method = described(self._data.tissue_method, digests=True) if grid.min_tissue else None
        tiles = {"step": grid.step, "border": grid.border, "min_tissue": grid.min_tissue, "tissue_method": method}
        known = {
            name: one for name, one in self._data.geometry().items() if name not in ("stride", "border", "min_tissue")
        }
        return {**known, "tiles": tiles}

    def choose_predicted(self, choose: Callable[[], Sequence[Sequence[int]]] | None) -> None:
        """As for the data module."""
        self._data.choose_predicted(choose)

    @cached_property
    def tables(self) -> dict[str, pd.DataFrame]:
        """The tiles to predict, in the order of the loader."""
        rows = self._data.tile_table("predict")
        split = dict(zip(self._slides["image_id"], self._slides["split"], strict=True))
        places = zip(rows[KEY], rows["x_lv0"], rows["y_lv0"], strict=True)
        rows = rows.assign(**{KEY: [f"{path}#x={x},y={y}" for path, x, y in places]}, split=rows["image_id"].map(split))
        return {"predict": rows.astype(dict.fromkeys(_PLACES, object))}

    @cached_property
    def labels(self) -> Any:
        """The same tiles, and slides that are left out, as one table (`frame`)."""
        out = self._data.labels.frame[self._data.labels.frame["image_id"].isin(self.skipped["image_id"])]
        out = out.assign(**dict.fromkeys(_PLACES, ""))
        return SimpleNamespace(frame=pd.concat([self.tables["predict"], out], ignore_index=True))

    def file_of_tiles(self, path: Path) -> Path:
        """Where the rows of tiles are written to, beside the file of the slides."""
        return path.with_name(f"{path.stem}.tiles{path.suffix}")

    def write_slides(self, path: Path) -> dict[str, str]:
        """Write a row for each slide, with the mean of the predictions of its tiles, and return errors by file.

        Classes are decided anew by the means. A slide of which a tile could not be predicted has no prediction.

        Args:
            path: The file; see `file_of_tiles`.
        """
        tiles = read_predictions(self.file_of_tiles(path))
        numbers = [name for name in tiles.columns if name.startswith(NUMBERS)]
        left_out = tiles[tiles[KEY].isin(self.skipped[KEY])]
        of_slide = dict(list(tiles[tiles[KEY].isin(self.tables["predict"][KEY])].groupby("image", sort=False)))
        counts = self.tables["predict"]["image_id"].value_counts()
        rows = []
        for slide in self._slides.to_dict("records"):
            name = slide["image_id"]
            found = of_slide.get(name, tiles[:0])
            bad = found.loc[found[ERROR] != "", ERROR].tolist()
            missing = int(counts[name]) - len(found)
            why = f"{len(bad)} of {counts[name]} tiles cannot be predicted, the first since: {bad[0]}" if bad else ""
            why = f"{missing} of {counts[name]} tiles were not predicted" if missing and not bad else why
            means = found[numbers].mean() if not why else pd.Series(np.nan, index=numbers)
            row = {"image": name, KEY: slide[KEY], "tiles": counts[name], **self._known_of(slide), **means, ERROR: why}
            rows.append(row if why or "predicted" not in tiles else {**row, "predicted": self._decided(means)})
        rows += [{**row, "tiles": 0} for row in left_out.drop(columns=_PLACES).to_dict("records")]
        columns = ["image", KEY, "tiles", *(name for name in tiles.columns[2:] if name not in _PLACES)]
        if self._data.is_annotated and "label" in columns:
            columns.remove("label")
        table = pd.DataFrame(rows).reindex(columns=columns)
        save_table(table.fillna({"predicted": "", ERROR: ""}), path)
        return {row[KEY]: row[ERROR] for row in table.to_dict("records") if row[ERROR]}

    @property
    def _slides(self) -> pd.DataFrame:
        slides: pd.DataFrame = self._data.tables["predict"]
        return slides

    def _known_of(self, slide: Mapping[Any, Any]) -> dict[str, Any]:
        return {"split": slide["split"], "label": slide["label_name"]}

    def _decided(self, means: pd.Series) -> str:
        values = means.filter(like="probability_").to_numpy(np.float64)
        if self.target == "multilabel":
            return ";".join(name for name, value in zip(self.class_names, values, strict=True) if value >= 0.5)
        return str(self.class_names[int(decided(values[None], ordered=self.target == "ordinal")[0])])
