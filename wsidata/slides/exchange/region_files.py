"""Outlined regions of slides as slides of their own, with a table of them to train on."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import shapely

from wsidata.annotations.annotations import Annotations
from wsidata.annotations.outline import AnnotationError, Outline
from wsidata.slides.exchange.ome_tiff import Compression, write_ome_tiff
from wsidata.slides.slide import Slide
from wsidata.tables.find_slides import ImageLookupError, MaskFolder
from wsidata.tables.label_table import read_table
from wsidata.tables.text_table import TableError, read_text_table
from wsidata.utils.files import write_text
from wsidata.utils.messages import describe_problems, name_some

COLUMNS = ("image", "slide", "outline", "outline_class", "x_lv0", "y_lv0", "width_lv0", "height_lv0")
"""Columns of a table of regions, before those of the table of slides."""


@dataclass(frozen=True)
class Region:
    """The rectangle around an outlined region, in whole pixels of level 0.

    Attributes:
        outline: The outline.
        x: Left edge.
        y: Upper edge.
        width: Columns.
        height: Rows.
    """

    outline: Outline
    x: int
    y: int
    width: int
    height: int

    def of(self, annotations: Annotations) -> Annotations:
        """The annotations that touch the rectangle, in its own pixels."""
        box = shapely.box(self.x, self.y, self.x + self.width, self.y + self.height)
        inside = [one for one in annotations.outlines if _drawn(one).intersects(box)]
        offset = (self.x, self.y)
        moved = [
            replace(one, parts=tuple(tuple(ring - offset for ring in part) for part in one.parts)) for one in inside
        ]
        return Annotations(tuple(moved), annotations.classes)


def regions_of(annotations: Annotations, size_lv0: tuple[int, int], classes: Sequence[str] = ()) -> list[Region]:
    """The rectangle around each outline with an area, in the order of the file.

    Outlines whose areas are taken away from others are no regions.

    Args:
        annotations: The outlines.
        size_lv0: Width and height of level 0; what lies beyond is left out.
        classes: Classes of the regions. None: all.

    Raises:
        AnnotationError: if an outline lies beside the slide.
    """
    width, height = size_lv0
    found = []
    for one in annotations.outlines:
        if one.kind != "polygon" or one.removes or (classes and one.class_name not in classes):
            continue
        left, top, right, bottom = one.shape.bounds
        x, y = max(0, math.floor(left)), max(0, math.floor(top))
        beyond_x, beyond_y = min(width, math.ceil(right)), min(height, math.ceil(bottom))
        if x >= beyond_x or y >= beyond_y:
            raise AnnotationError(
                f"'{annotations.path or 'annotations'}': outline {one.label} lies beside the slide of {width} x "
                f"{height} px. Are they those of this slide, and in pixels of level 0 rather than um?"
            )
        found.append(Region(one, x, y, beyond_x - x, beyond_y - y))
    return found


def write_regions(
    table: str | Path | pd.DataFrame,
    out: str | Path,
    annotation_dir: str | Path,
    *,
    image_dir: str | Path | None = None,
    image_column: str = "image",
    classes: Sequence[str] = (),
    group_column: str | None = None,
    unannotated: Literal["error", "skip"] = "error",
    compression: Compression = "deflate",
    overwrite: bool = False,
    done: Callable[[int, int], None] | None = None,
    **options: Any,
) -> pd.DataFrame:
    """Write the outlined regions of slides as slides of their own, and a table of them.

        out/images/tumor_001_1.ome.tif           the rectangle around the first outline, its pixels of level 0
        out/annotations/tumor_001_1.geojson      the outlines in it, in its own pixels
        out/regions.csv                          a row for each region

    The table has `COLUMNS`, then the columns of the slide's row, and `group`: the patient, or the slide where there is
    no column of patients. Pass it as `group_column=`, so that regions of a slide or patient stay in one split.

    Args:
        table: Table of slides; see `read_table`.
        out: Folder to write to.
        annotation_dir: Folder with a file of annotations of each slide's name.
        image_dir: Folder of the slides. None: the table's own.
        image_column: Column of slide names.
        classes: Classes of outlines that are regions. None: all.
        group_column: Column of patients.
        unannotated: What to do with slides without a file: an "error", or "skip" them.
        compression: "deflate" keeps every bit; "jpeg" does not, and takes a tenth of the room.
        overwrite: Replace files that exist.
        done: Called with the numbers of slides done and in all.
        **options: How slides are opened; see `Slide`.

    Returns:
        The table.

    Raises:
        TableError: naming missing slides, columns, and annotations.
        AnnotationError: if a file is malformed, or lies beside its slide.
        FileExistsError: if a file would be replaced.
        ValueError: if there is no region.
    """
    out, text = Path(out), read_text_table(table)
    slides = read_table(table, image_dir, image_column=image_column, label_column=None, group_column=group_column).frame
    listed = out / "regions.csv"
    if listed.exists() and not overwrite:
        raise FileExistsError(f"'{listed}' exists. Pass overwrite=True, or another folder.")
    kept = text.frame.drop(columns=list({image_column, group_column} & {*COLUMNS, "group"}))
    if taken := sorted({*COLUMNS, "group"} & set(kept.columns)):
        raise TableError(f"'{text.source}' has the columns {taken}, which those of regions would replace. Rename them.")
    names = slides["image_id"].str.replace("/", "_")
    if names.str.lower().duplicated().any():
        raise TableError(f"'{text.source}': files of regions of several slides would be named '{_first_twice(names)}'.")
    files = _annotations_of(slides, MaskFolder(annotation_dir), unannotated, text.source)
    planned = [
        _planned(path, None if file is None else Annotations.read(file), classes, options)
        for path, file in zip(slides["path"], files, strict=True)
    ]
    if not any(regions for _, regions in planned):
        which = f" of the class {name_some(classes)}" if classes else ""
        raise ValueError(f"'{annotation_dir}' has no outlines{which} for these slides. Check the names of classes.")
    rows = []
    for number, (drawn, regions) in enumerate(planned):
        row = slides.iloc[number]
        group = row["group"] or row["image_id"]
        for place, region in enumerate(regions, start=1):
            name, rectangle = f"{names[number]}_{place}", (region.x, region.y, region.width, region.height)
            path = out / "images" / f"{name}.ome.tif"
            with Slide(row["path"], **options) as slide:
                write_ome_tiff(slide, path, region=rectangle, compression=compression, overwrite=overwrite)
            (out / "annotations").mkdir(exist_ok=True)
            region.of(drawn).write(out / "annotations" / f"{name}.geojson")
            said = (path.name, row["image_id"], region.outline.name, region.outline.class_name, *rectangle)
            rows.append({**dict(zip(COLUMNS, said, strict=True)), **kept.iloc[number], "group": group})
        if done is not None:
            done(number + 1, len(slides))
    found = pd.DataFrame(rows)
    write_text(listed, found.to_csv(index=False, lineterminator="\n"))
    return found


def _planned(
    path: str, annotations: Annotations | None, classes: Sequence[str], options: dict[str, Any]
) -> tuple[Annotations, list[Region]]:
    if annotations is None:
        return Annotations(()), []
    with Slide(path, **options) as slide:
        return annotations, regions_of(annotations, (slide.width, slide.height), classes)


def _first_twice(names: pd.Series[str]) -> str:
    return str(names[names.str.lower().duplicated()].iloc[0])


def _annotations_of(
    slides: pd.DataFrame, folder: MaskFolder, unannotated: Literal["error", "skip"], source: str
) -> list[Path | None]:
    files, problems = list[Path | None](), list[str]()
    for path in slides["path"]:
        files.append(None)
        try:
            files[-1] = folder.find_outlines(Path(path).name)
        except ImageLookupError as error:
            problems.append(str(error))
        else:
            if files[-1] is None and unannotated == "error":
                problems.append(f"'{folder.root}' has no annotations of '{Path(path).name}'")
    if problems:
        remedy = "Add these files, or leave slides without annotations out with unannotated='skip'."
        raise TableError(describe_problems(source, problems, remedy))
    return files


def _drawn(one: Outline) -> shapely.Geometry:
    """An outline, also where it has no area."""
    if one.kind == "polygon":
        return one.shape
    if one.kind == "points":
        return shapely.multipoints([point for part in one.parts for point in part[0]])
    return shapely.multilinestrings([part[0] if len(part[0]) > 1 else part[0].repeat(2, axis=0) for part in one.parts])
