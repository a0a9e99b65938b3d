"""Tables of the tiles of slides, and Parquet files of them for other programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from wsidata.slides.options import SlideOptions
from wsidata.slides.slide import Slide
from wsidata.tiles.facts import tile_facts
from wsidata.tiles.grid import TileGrid, Tiles
from wsidata.tiles.labels import NO_LABEL
from wsidata.tiles.plan import TilePlan
from wsidata.utils.files import atomic_write

FACTS = {
    **dict.fromkeys(["patch_size", "patch_size_level0", "overlap", "patch_level"], "Int64"),
    **dict.fromkeys(["width", "height", "stride_width", "stride_height", "base_width", "base_height"], "int64"),
    **dict.fromkeys(["downsample_x", "downsample_y", "mpp_x", "mpp_y"], "float64"),
    **dict.fromkeys(["level0_width", "level0_height"], "int64"),
    **dict.fromkeys(["level0_magnification", "target_magnification"], "float64"),
}
"""Types of the columns of a Parquet file that say how the tiles of a slide are read."""

COLUMNS = ["image_id", "path", "x_lv0", "y_lv0", "tissue", "label", "label_name"]


def tile_rows(slides: pd.DataFrame, plans: Mapping[str, TilePlan], class_names: Sequence[str]) -> pd.DataFrame:
    """A row for each tile of some slides, with the columns of `TileDataModule.tile_table`.

    Args:
        slides: Rows of a label table.
        plans: The tiles of each slide, by `image_id`.
        class_names: Names of the labels of annotations.
    """
    tables = []
    for row in slides.to_dict("records"):
        plan = plans[row["image_id"]]
        coords, count = plan.tiles.coords_lv0, len(plan.tiles)
        labels = np.full(count, row["label"]) if plan.labels is None else plan.labels.astype(np.int64)
        shown = [row["label_name"]] * count
        if plan.labels is not None:
            shown = ["" if label == NO_LABEL else class_names[label] for label in labels.tolist()]
        columns = {
            "image_id": [row["image_id"]] * count, "path": row["path"], "x_lv0": coords[:, 0],
            "y_lv0": coords[:, 1], "tissue": np.nan if plan.tiles.tissue is None else plan.tiles.tissue,
            "label": labels, "label_name": shown,
        }  # fmt: skip
        if "target" in row:
            columns["target"] = [row["target"]] * count
        tables.append(pd.DataFrame(columns))
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=COLUMNS)


def write_tiles(
    path: str | Path, rows: pd.DataFrame, plans: Mapping[str, TilePlan], grid: TileGrid, options: SlideOptions
) -> None:
    """Write a Parquet file with a row for each tile, whole or not at all; for its columns see `save_tiles`.

    Args:
        path: The file; its folder is created.
        rows: What `tile_rows` returned.
        plans: The tiles of each slide, by `image_id`.
        grid: How tiles are read.
        options: How slides are opened.
    """
    found = []
    for name, file in rows[["image_id", "path"]].drop_duplicates().itertuples(index=False):
        with Slide.from_options(file, options) as slide:
            found.append({"image_id": name, **_facts(slide, grid, plans[name].tiles)})
    slides = pd.DataFrame(found, columns=["image_id", *FACTS]).astype(FACTS)
    table = rows.merge(slides, on="image_id", how="left", validate="many_to_one")
    with atomic_write(path) as unfinished:
        table.rename(columns={"image_id": "name", "x_lv0": "x", "y_lv0": "y"}).to_parquet(unfinished, index=False)


def _facts(slide: Slide, grid: TileGrid, tiles: Tiles) -> dict[str, Any]:
    """The columns `FACTS` of a slide, those without a value left out."""
    (height, width), (down, right) = grid.size, grid.step
    base_width, base_height = tiles.size_lv0
    found = tile_facts(slide, grid, tiles)
    found |= {"width": width, "height": height, "stride_width": right, "stride_height": down}
    found |= {"base_width": base_width, "base_height": base_height}
    for name in ("downsample", "mpp"):
        found[f"{name}_x"], found[f"{name}_y"] = found.pop(name, (None, None))
    found.pop("patch_size_level0")
    if (height, down, base_height) == (width, right, base_width):
        found |= {"patch_size": width, "patch_size_level0": base_width, "overlap": width - right}
    return {name: value for name, value in found.items() if name in FACTS}
