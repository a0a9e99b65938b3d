"""Heat maps of trained networks against the places of the digits that are sought."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from streammodels import Heatmap, class_activation_map
from study.networks import WholeImage, shrunk
from study.training import Job, trained
from wsidata.evaluation.lesions import Detections, LesionHits, LesionMap, find_detections, lesion_froc
from wsidata.synthetic.needles import DIGIT_PX, Canvases

_RADIUS_PX = 6.0
_MOST = 10
"""Detections on a canvas."""


def heat_table(jobs: Sequence[Job], canvases: Canvases) -> pd.DataFrame:
    """For each training, how often the hottest place of a canvas is the digit, and the sensitivity of detections.

    The heat map is Grad-CAM of the global maximum: what each location would add to the score. Its peaks, up to ten on a
    canvas and each at least 6 pixels from the others, are detections; those in the 8 x 8 pixels of the digit find it.

    Args:
        jobs: Trainings of whole images.
        canvases: Canvases with the places of their digits.

    Returns:
        Columns `arm`, `side_px`, `seed`, `pointing_game`, `chance` (what a random place scores), `false_positives`,
        `sensitivity`, `low`, `high`; a row for each number of false positives a canvas, and one, nan, for their mean.
    """
    rows = list[dict[str, object]]()
    for job in jobs:
        found = _detections(job, canvases)
        labels = [_labels(canvases, number) for number in range(len(canvases.labels))]
        hits = [LesionMap(one, frozenset(), 1.0, 1.0).hits(of) for one, of in zip(labels, found, strict=True)]
        froc = lesion_froc(hits)
        positive = [hit for hit, label in zip(hits, canvases.labels, strict=True) if label]
        about = {
            "arm": job.arm.name, "side_px": canvases.images.shape[1], "seed": job.seed,
            "pointing_game": float(np.mean([_hottest_is_lesion(one) for one in positive])),
            "chance": DIGIT_PX**2 / canvases.images.shape[1]**2,
        }  # fmt: skip
        table = froc.table.drop(columns="note")
        rows += [{**about, **dict(zip(table.columns, row, strict=True))} for row in table.itertuples(index=False)]
    return pd.DataFrame(rows)


def heat_map(job: Job, images: torch.Tensor) -> Heatmap:
    """Grad-CAM of canvases, (N, 1, side, side) uint8, by the trained network of a job.

    Raises:
        TypeError: if the arm does not read whole images.
    """
    model = trained(job)
    if not isinstance(model, WholeImage):
        raise TypeError(f"'{job.arm.name}' has no map of the whole image. Use an arm that reads it.")
    return class_activation_map(model.streamed, shrunk(images, model.shrink), 0, head=model.head)


def _detections(job: Job, canvases: Canvases) -> list[Detections]:
    found = list[Detections]()
    for part in torch.split(torch.from_numpy(canvases.images)[:, None], 16):
        heat = heat_map(job, part)
        for values in heat.values.double().numpy():
            radius = _RADIUS_PX / (job.arm.shrink * heat.grid.x.stride)
            peaks = find_detections(values, 1.0, radius_px=radius, least=np.finfo(float).tiny, most=_MOST)
            # Pixel i of the map has its center at i + 0.5 there, and at `center(i)` + 0.5 on the image.
            x, y = (
                (axis.first + (at - 0.5) * axis.stride + 0.5) * job.arm.shrink
                for axis, at in ((heat.grid.x, peaks.x), (heat.grid.y, peaks.y))
            )
            found.append(Detections(x, y, peaks.scores))
    return found


def _labels(canvases: Canvases, number: int) -> NDArray[np.int32]:
    """The digit that is sought as a lesion, on pixels."""
    labels = np.zeros(canvases.images.shape[1:], np.int32)
    if canvases.labels[number]:
        column, row = canvases.corners[number, 0]
        labels[row : row + DIGIT_PX, column : column + DIGIT_PX] = 1
    return labels


def _hottest_is_lesion(hits: LesionHits) -> bool:
    return bool(hits.lesions) and hits.lesions[0] > max(hits.false_positives, default=-np.inf)
