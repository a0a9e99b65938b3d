"""The worst mistakes of a report, each with a thumbnail and its heat map beside it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wsidata.evaluation.report.blocks import Card, Cards, Picture, Section, Text, counted, number
from wsidata.evaluation.report.pictures import heat_map_picture, thumbnail
from wsidata.evaluation.report.scores import SPLIT_NAMES, Scores
from wsidata.evaluation.scored import Scored


def mistake_section(scores: Scores, heat_maps: dict[str, list[Path]], limit: int) -> Section:
    """Images that are wrong with the highest probability, or whose numbers are off most.

    Args:
        scores: Scores of the validation and test images; training images are left out.
        heat_maps: Files of heat maps by image.
        limit: How many images at most.
    """
    rows = scores.all_rows
    if rows.task == "survival":
        return Section("")
    held_out = (rows.rows["split"] != "train").to_numpy()
    wrong, badness = _wrong(rows)
    found = np.flatnonzero(wrong & held_out)
    worst = found[np.argsort(-badness[found], kind="stable")][:limit]
    if rows.task == "regression":
        section = Section("Largest errors")
        text = f"The {counted(len(worst), scores.unit)} whose numbers are off most."
    else:
        section = Section("Worst mistakes")
        of = counted(int(held_out.sum()), scores.unit)
        first = "furthest off" if rows.task == "ordinal" else "most confident"
        text = f"{len(found):,} of {of} are wrong" + (f"; the {first} first." if len(found) else ".")
    section.blocks.append(Text(text))
    cards = [_card(rows, int(row), scores.unit, heat_maps) for row in worst]
    if cards:
        section.blocks.append(Cards(cards))
        if "path" not in rows.rows:
            section.blocks.append(Text("No thumbnails: the predictions have no column path.", "note"))
        if not heat_maps:
            section.blocks.append(
                Text(
                    "No heat maps in the folder heatmaps/ of the run: slidestream heatmap CHECKPOINT SLIDE --out "
                    "RUN/heatmaps draws them; write the report again afterwards.",
                    "note",
                )
            )
    return section


def _wrong(rows: Scored) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Whether each image is wrong, and how badly."""
    if rows.one_class:
        confidence = rows.predicted[np.arange(len(rows.rows)), rows.named]
        distance = np.abs(rows.named - rows.classes) if rows.task == "ordinal" else 0
        return rows.named != rows.classes, confidence + distance
    off = np.abs(rows.predicted - rows.truth)
    if rows.task == "multilabel":
        mistaken = (rows.predicted >= 0.5) != (rows.truth > 0)
        return mistaken.any(axis=1), np.where(mistaken, off, 0).max(axis=1, initial=0)
    scale = rows.truth.std(axis=0) if len(off) else np.ones(off.shape[1])
    return np.ones(len(off), bool), (off / np.where(scale > 0, scale, 1)).max(axis=1, initial=0)


def _card(rows: Scored, row: int, unit: str, heat_maps: dict[str, list[Path]]) -> Card:
    image = str(rows.rows["image"].iloc[row])
    path = str(rows.rows["path"].iloc[row]) if "path" in rows.rows else ""
    pictures = []
    if path:
        try:
            pictures.append(Picture(thumbnail(path, unit), f"Thumbnail of {image}."))
        except (OSError, ValueError) as error:
            pictures.append(Picture("", "", f"No thumbnail: {_short(error, path)}."))
    predicted = rows.names[rows.named[row]] if rows.one_class else ""
    maps = sorted(
        heat_maps.get(image, []),
        key=lambda file: (file.name.endswith("_regions.png"), f"_{predicted}_" not in file.name),
    )
    if maps:
        try:
            pictures.append(Picture(heat_map_picture(maps[0]), f"Heat map {maps[0].name} of {image}."))
        except (OSError, ValueError) as error:
            pictures.append(Picture("", "", f"No heat map: {_short(error, str(maps[0]))}."))
    split = SPLIT_NAMES[str(rows.rows["split"].iloc[row])]
    return Card(image, [*_lines(rows, row), split], pictures)


def _short(error: Exception, path: str) -> str:
    """The reason without the folders of the file, which are nobody's business who gets the report."""
    text = str(error).replace(path, Path(path).name) if path else str(error)
    text = text.splitlines()[0] if text else type(error).__name__
    return text.rstrip(".") if len(text) < 160 else f"{text[:159]}…"


def _lines(rows: Scored, row: int) -> list[str]:
    truth, predicted = rows.truth[row], rows.predicted[row]
    if rows.one_class:
        true, named = rows.classes[row], rows.named[row]
        return [
            f"true: {rows.names[true]} ({predicted[true]:.2f})",
            f"predicted: {rows.names[named]} ({predicted[named]:.2f})",
        ]
    if rows.task == "regression":
        return [
            f"{name}: true {number(truth[k])}, predicted {number(predicted[k])}" for k, name in enumerate(rows.names)
        ]
    mistaken = np.flatnonzero((predicted >= 0.5) != (truth > 0))
    return [
        f"{rows.names[k]}: {'has it' if truth[k] else 'does not have it'}, probability {predicted[k]:.2f}"
        for k in mistaken
    ]
