"""The quality of slides as one self-contained HTML file, the worst first, with thumbnails."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from wsidata.evaluation.report.blocks import Card, Cards, Picture, Section, Table, Text, counted, number
from wsidata.evaluation.report.pictures import thumbnail
from wsidata.evaluation.report.write import write_page
from wsidata.slides.options import AS_STORED, SlideOptions

SHARES = {
    "lost_share": "lost", "blurred_share": "blurred", "fold_share": "folds", "pen_share": "pen",
    "bubble_share": "bubbles",
}  # fmt: skip
_MOST_ROWS = 500


def write_quality_report(
    table: pd.DataFrame,
    out: str | Path,
    *,
    title: str = "Quality of the slides",
    max_thumbnails: int = 60,
    options: SlideOptions = AS_STORED,
) -> Path:
    """Write a report of a table of `quality_table`.

    Args:
        table: Of `quality_table`, in its order: the worst first.
        out: HTML file to write.
        title: Heading.
        max_thumbnails: How many slides are shown.
        options: How slides are opened, as for `quality_table`.

    Returns:
        The file.

    Raises:
        FileExistsError: if `out` exists and is no report.
    """
    failed = table[table["error"] != ""]
    good = table[table["error"] == ""]
    sections = []
    if len(failed):
        rows = [[str(row.image), str(row.error)] for row in failed.itertuples()]
        sections.append(Section("Not read", [Table(counted(len(rows), "slides"), ["Slide", "Reason"], rows)]))
    if len(good):
        text = Text(
            "Shares of the tissue; pen and bubbles of the slide. The worst first: what is lost to any of these."
        )
        cards = [_card(row, options) for row in good.head(max_thumbnails).to_dict("records")]
        sections.append(Section("Worst first", [text, Cards(cards)]))
        sections.append(Section("All slides", [_table(good)]))
    facts = [
        ("Slides", f"{len(table):,}"),
        ("Tissue", f"{good['tissue_mm2'].sum():,.0f} mm\N{SUPERSCRIPT TWO}"),
        ("Median lost", _share(good["lost_share"].median())),
    ]
    return write_page(Path(out), title=title, facts=facts, sections=sections)


def _card(row: Mapping[Any, Any], options: SlideOptions) -> Card:
    name = str(row["image"])
    try:
        picture = Picture(thumbnail(str(row["path"]), "slides", options), name)
    except (ValueError, OSError) as error:
        picture = Picture("", name, f"No thumbnail: {error}")
    shares = ", ".join(f"{said} {_share(row[column])}" for column, said in SHARES.items())
    glass = " ".join(number(float(str(row[f"glass_{color}"]))) for color in ("red", "green", "blue"))
    lines = [shares, f"{float(str(row['tissue_mm2'])):.1f} mm\N{SUPERSCRIPT TWO} of tissue, glass {glass}"]
    return Card(name, lines, [picture])


def _table(good: pd.DataFrame) -> Table:
    shown = good.head(_MOST_ROWS)
    rows = [
        [str(row["image"]), f"{row['tissue_mm2']:.1f}", *(_share(row[column]) for column in SHARES)]
        for row in shown.to_dict("records")
    ]
    caption = counted(len(good), "slides") if len(shown) == len(good) else f"The first {_MOST_ROWS} of {len(good):,}"
    return Table(caption, ["Slide", "tissue, mm\N{SUPERSCRIPT TWO}", *SHARES.values()], rows)


def _share(value: object) -> str:
    found = float(str(value))
    return "unknown" if found != found else f"{found:.1%}"
