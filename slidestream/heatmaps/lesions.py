"""Heat maps scored against the outlines of lesions, for each slide and for all together."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from streammodels.explain.placement import PlacedMap
from wsidata.annotations import Annotations, Grid, OutlineMask
from wsidata.evaluation.lesions import Detections, LesionHits, LesionMap, find_detections, lesion_froc, outline_scores
from wsidata.evaluation.lesions.froc import Froc
from wsidata.evaluation.lesions.lesion_map import CAMELYON16_MPP
from wsidata.evaluation.save import save_figure, save_table
from wsidata.tables.find_slides import MaskFolder, split_suffix
from wsidata.tables.text_table import read_text_table
from wsidata.utils.messages import name_some

APART_UM = 200.0
"""Least distance of two detections on a slide; at least 1.5 pixels of the heat map."""

Unannotated = Literal["error", "normal"] | Collection[str]

LESION_FILES = ("froc.csv", "froc.png", "lesions.csv", "outline_scores.csv", "detections.csv")
"""Names of the files of `write_lesion_scores`."""

Numbers = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class SlideOutlines:
    """What is outlined on a slide.

    Attributes:
        annotations: The outlines; None where there are no lesions.
        classes: The classes of them that are lesions.
    """

    annotations: Annotations | None
    classes: tuple[str, ...] = ()

    @property
    def rings(self) -> list[Numbers]:
        """(N, 2) vertices of the lesions' outlines in pixels of level 0."""
        if self.annotations is None or not self.classes:
            return []
        import shapely

        area = self.annotations.area(*self.classes)
        return [shapely.get_coordinates(ring) for ring in shapely.get_rings(shapely.get_parts(area))]

    def mask(self, grid: Grid) -> OutlineMask | None:
        """The lesions on a grid; None where there are none."""
        if self.annotations is None or not self.classes:
            return None
        return OutlineMask(self.annotations, grid, dict.fromkeys(self.classes, 1))


@dataclass(frozen=True, eq=False)
class ScoredSlide:
    """A heat map beside the outlines of its slide.

    Attributes:
        heat: (rows, columns) values; lower than all others where the network saw nothing.
        outlined: Share of each cell that is outlined.
        detections: The hottest places.
        hits: What they hit.
        isolated: Number of isolated tumor cells, which count neither way.
    """

    heat: Numbers
    outlined: Numbers
    detections: Detections
    hits: LesionHits
    isolated: int


def read_outlines(
    paths: Sequence[Path], source: str | Path, classes: Sequence[str] = (), unannotated: Unannotated = "error"
) -> list[SlideOutlines]:
    """The outlines of slides, from the files of their names in a folder.

    Args:
        paths: The slides.
        source: The folder; of one slide the file.
        classes: Classes of outlines that are lesions. None: all, without exclusions.
        unannotated: What a slide without a file is: an "error", "normal" (without lesions), or normal if it is among
            these names.

    Raises:
        ValueError: naming slides without a file, and classes that are nowhere.
        OSError: if a file cannot be read.
    """
    source = Path(source)
    if source.is_file() and len(paths) == 1:
        files: list[Path | None] = [source]
    elif source.is_dir():
        folder = MaskFolder(source)
        files = [folder.find_outlines(path.name) for path in paths]
    else:
        raise FileNotFoundError(f"'{source}' is no folder of annotations. Name one, or for one slide the file.")
    known = {name for one in ([] if isinstance(unannotated, str) else unannotated) for name in (one, Path(one).stem)}
    lacking = [
        path.name
        for path, file in zip(paths, files, strict=True)
        if file is None and unannotated != "normal" and not {path.name, path.stem} & known
    ]
    if lacking:
        raise ValueError(
            f"'{source}' has no annotations of {name_some(lacking)}. Add the files, or say with --unannotated normal "
            "that slides without a file have no lesions."
        )
    found = [None if file is None else Annotations.read(file) for file in files]
    there = {name for one in found if one is not None for name in one.class_names}
    if unknown := [name for name in classes if name not in there]:
        raise ValueError(
            f"no file in '{source}' has outlines of the class {name_some(unknown)}, but {name_some(sorted(there))}. "
            "Check the spelling of --outline-class."
        )
    return [SlideOutlines(one, () if one is None else _lesion_classes(one, classes)) for one in found]


def read_groups(table: str | Path, paths: Sequence[Path]) -> list[str]:
    """The patient of each slide, from a table with the columns `image` or `image_id`, and `group`.

    Args:
        table: CSV or Parquet, such as split.csv of a run. Names may lack their suffix.
        paths: The slides.

    Raises:
        ValueError: naming the column that is missing, or slides without a patient.
        OSError: if it cannot be read.
    """
    frame = read_text_table(table).frame
    names = next((name for name in ("image_id", "image") if name in frame), None)
    if names is None or "group" not in frame:
        raise ValueError(
            f"'{table}' has the columns {name_some(list(frame.columns))}; --groups needs image (or image_id) and group."
        )
    known = {Path(str(name)).name: str(group) for name, group in zip(frame[names], frame["group"], strict=True)}
    found = [known.get(path.name) or known.get(split_suffix(path.name)[0], "") for path in paths]
    if lacking := [path.name for path, group in zip(paths, found, strict=True) if not group]:
        raise ValueError(f"'{table}' names no patient of {name_some(lacking)} in its column group. Add them to it.")
    return found


def _lesion_classes(annotations: Annotations, classes: Sequence[str]) -> tuple[str, ...]:
    if classes:
        return tuple(name for name in classes if name in annotations.class_names)
    drawn = [one.class_name for one in annotations.outlines if one.kind == "polygon" and not one.removes]
    return tuple(dict.fromkeys(drawn))


def score_slide(
    placed: PlacedMap, pixel_lv0: tuple[float, float], outlines: SlideOutlines, apart_um: float = APART_UM
) -> ScoredSlide:
    """Compare a heat map with the outlines of its slide.

    Lesions are those of Camelyon16, of a mask of 7.776 um/px; see `wsidata.evaluation.lesions.LesionMap`.

    Args:
        placed: The map.
        pixel_lv0: Width and height of one of its values, which several cells may share, in pixels of level 0.
        outlines: The outlines.
        apart_um: Least distance of two detections; at least 1.5 such pixels.

    Raises:
        ValueError: if the slide does not say its resolution, or outlines lie beside it.
    """
    if placed.mpp is None:
        raise ValueError("lesions are measured in um, and the slide does not say its resolution: pass --mpp-override")
    rows, columns = placed.values.shape
    seen = np.isfinite(placed.values)
    least = float(placed.values[seen].min())
    heat = np.where(seen, placed.values, np.finfo(np.float64).min)
    mask = outlines.mask(Grid(columns, rows, *placed.cell_lv0))
    outlined = np.zeros(heat.shape) if mask is None else mask.shares()[0]
    cell_um, pixel_um = (
        max(side * mpp for side, mpp in zip(sides, placed.mpp, strict=True)) for sides in (placed.cell_lv0, pixel_lv0)
    )
    found = find_detections(heat, placed.cell_lv0, radius_px=max(apart_um, 1.5 * pixel_um) / cell_um, least=least)
    detections = _centered(found, heat, placed.cell_lv0, pixel_lv0)
    down = tuple(CAMELYON16_MPP / mpp for mpp in placed.mpp)
    sides = [math.ceil(side / step) for side, step in zip(placed.size_lv0, down, strict=True)]
    mask = outlines.mask(Grid(sides[0], sides[1], down[0], down[1]))
    if mask is None:
        return ScoredSlide(heat, outlined, detections, LesionHits.without_lesions(detections), 0)
    lesions = LesionMap.of(mask.labels() > 0, (down[0], down[1]))
    return ScoredSlide(heat, outlined, detections, lesions.hits(detections), len(lesions.isolated))


def _centered(
    found: Detections, heat: Numbers, cell_lv0: tuple[float, float], pixel_lv0: tuple[float, float]
) -> Detections:
    """Detections in the middle of the cells that share their value, instead of in the first of them."""
    places = []
    for x, y in zip(found.x, found.y, strict=True):
        column, row = int(x / cell_lv0[0]), int(y / cell_lv0[1])
        across, down = (max(1, round(whole / cell)) for whole, cell in zip(pixel_lv0, cell_lv0, strict=True))
        alike = np.argwhere(heat[row : row + down, column : column + across] == heat[row, column])
        below, right = alike.mean(axis=0)
        places.append((x + right * cell_lv0[0], y + below * cell_lv0[1]))
    at = np.array(places, np.float64).reshape(-1, 2)
    return Detections(at[:, 0], at[:, 1], found.scores)


@dataclass(frozen=True, eq=False)
class LesionScores:
    """Heat maps of slides scored against outlines.

    Attributes:
        froc: Sensitivity for lesions against false positives; see `wsidata.evaluation.lesions.lesion_froc`.
        slides: A row for each slide: `slide`, `lesions`, `isolated` (tumor cells), `hit` (lesions that some detection
            lies in), `highest_false_positive`, `pointing_game`, and with a threshold `dice`.
        together: Pointing game and Dice of all slides, with intervals; see `outline_scores`.
        files: The files that were written.
    """

    froc: Froc
    slides: pd.DataFrame
    together: pd.DataFrame
    files: tuple[Path, ...]

    def __str__(self) -> str:
        mean = self.froc.table.iloc[-1]
        told = f"FROC score {_with_interval(mean, mean['sensitivity'])}: {self.froc.lesions} lesions on "
        told += f"{self.froc.slides} slides"
        for row in self.together.to_dict("records"):
            told += f"; {row['score'].replace('_', ' ')} {_with_interval(row, row['value'])}"
        return told


def write_lesion_scores(
    scored: Mapping[str, ScoredSlide],
    out: str | Path,
    *,
    threshold: float | None = None,
    groups: Sequence[str] | None = None,
    seed: int = 0,
) -> LesionScores:
    """Score heat maps against outlines, and write tables, the curve and the detections.

    Intervals are 95 % bootstrap intervals over slides, or over patients.

    Args:
        scored: By name of the slide.
        out: Folder for froc.csv, froc.png, lesions.csv, outline_scores.csv and detections.csv.
        threshold: From which value on a pixel counts as found, for Dice. None: no Dice.
        groups: Patient of each slide.
        seed: Of the resamples.

    Raises:
        LesionError: if there are no slides.
        OSError: if files cannot be written.
    """
    out = Path(out)
    froc = lesion_froc([one.hits for one in scored.values()], groups=groups, seed=seed)
    of_slides, together = outline_scores(
        {name: one.heat for name, one in scored.items()},
        {name: one.outlined for name, one in scored.items()},
        threshold=math.inf if threshold is None else threshold,
        groups=None if groups is None else dict(zip(scored, groups, strict=True)),
        seed=seed,
    )
    slides = pd.DataFrame(
        [
            {
                "slide": name,
                "lesions": len(one.hits.lesions),
                "isolated": one.isolated,
                "hit": sum(score > -math.inf for score in one.hits.lesions),
                "highest_false_positive": max(one.hits.false_positives, default=math.nan),
            }
            for name, one in scored.items()
        ]
    )
    slides["pointing_game"] = of_slides["pointing_game"]
    if threshold is None:
        together = together[together["score"] == "pointing_game"]
    else:
        slides["dice"] = of_slides["dice"]
    places = pd.concat(
        [
            pd.DataFrame(
                {"slide": name, "score": one.detections.scores, "x_lv0": one.detections.x, "y_lv0": one.detections.y}
            )
            for name, one in scored.items()
        ]
    )
    tables = {"froc": froc.table, "lesions": slides, "outline_scores": together, "detections": places}
    for name, table in tables.items():
        save_table(table, out / f"{name}.csv")
    save_figure(plot_froc(froc), out / "froc.png")
    return LesionScores(froc, slides, together, tuple(out / name for name in LESION_FILES))


def plot_froc(froc: Froc) -> Figure:
    """The curve of a FROC, with the intervals of the sensitivities that its score is the mean of."""
    figure = Figure(figsize=(5.6, 4.4), layout="constrained")
    axes = figure.subplots()
    read, mean = froc.table.iloc[:-1], froc.table.iloc[-1]
    most = float(read["false_positives"].max()) * 1.05
    x, y = np.r_[0.0, froc.curve["false_positives"]], np.r_[0.0, froc.curve["sensitivity"]]
    axes.plot(np.r_[x, max(most, x[-1])], np.r_[y, y[-1]], color="#b8434e", lw=1.8, clip_on=True)
    ends = np.abs(read[["low", "high"]].to_numpy().T - read["sensitivity"].to_numpy())
    axes.errorbar(
        read["false_positives"], read["sensitivity"], yerr=np.nan_to_num(ends), fmt="o", ms=4, color="#b8434e",
        ecolor="#8a949e", capsize=3, clip_on=False,
    )  # fmt: skip
    axes.set(xlabel="false positives a slide", ylabel="lesions found", xlim=(0, most), ylim=(0, 1))
    axes.set_title(
        f"FROC score {_with_interval(mean, mean['sensitivity'])}\n{froc.lesions} lesions, {froc.slides} slides",
        fontsize=10,
    )
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _with_interval(row: Any, value: float) -> str:
    if math.isnan(value):
        return f"none ({row['note']})"
    return f"{value:.3f}" + ("" if math.isnan(row["low"]) else f" ({row['low']:.3f} to {row['high']:.3f})")
