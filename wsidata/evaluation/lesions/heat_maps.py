"""Heat maps compared with masks of outlines, and detections taken from them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from wsidata.evaluation.bootstrap import Interval, interval, resample, units_of
from wsidata.evaluation.lesions.lesion_map import Detections, LesionError

Numbers = NDArray[np.float64]


def find_detections(
    heat_map: Numbers, downsample: float | tuple[float, float], *, radius_px: float, least: float, most: int = 1000
) -> Detections:
    """The highest pixels of a heat map, each at least `radius_px` from those before it.

    Args:
        heat_map: (height, width), from the upper left corner of the slide on.
        downsample: Level-0 pixels per pixel of it, or (along x, along y).
        radius_px: Pixels within this distance of a detection are no further ones, in pixels of the map.
        least: Lowest score of a detection.
        most: Number of detections at most.

    Returns:
        Detections at the centers of pixels, from the highest score down.

    Raises:
        LesionError: if the map holds numbers that are not finite.
    """
    left = _checked(heat_map, "the heat map").copy()
    across, down = downsample if isinstance(downsample, tuple) else (downsample, downsample)
    reach, found = int(np.ceil(radius_px)), list[tuple[float, float, float]]()
    while len(found) < most:
        row, column = (int(number) for number in np.unravel_index(int(left.argmax()), left.shape))
        score = float(left[row, column])
        if score < least or score == -np.inf:
            break
        found.append(((column + 0.5) * across, (row + 0.5) * down, score))
        top, start = max(0, row - reach), max(0, column - reach)
        near = left[top : row + reach + 1, start : column + reach + 1]
        rows, columns = np.ogrid[top : top + near.shape[0], start : start + near.shape[1]]
        near[
            ((rows - row) ** 2 + (columns - column) ** 2 < radius_px**2) | ((rows == row) & (columns == column))
        ] = -np.inf
    return Detections(*(np.array([one[axis] for one in found], np.float64) for axis in range(3)))


def outline_scores(
    heat_maps: Mapping[str, Numbers],
    outlined: Mapping[str, NDArray[np.generic]],
    *,
    threshold: float,
    groups: Mapping[str, str] | None = None,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Pointing game and Dice of heat maps, of each slide and of all, with bootstrap intervals over slides.

    The pointing game (Zhang et al., Top-down neural attention by excitation backprop, 2016) asks whether the highest
    pixel lies in an outline: its share that does, and where several are the highest, as of a flat map, their mean. Dice
    (1945) is 2 |A and B| / (|A| + |B|), with A the pixels of at least `threshold` and B the outlined area, of which a
    pixel may hold a share. Slides without outlines have no pointing game, and a Dice of 0 where anything is found;
    where nothing is, it is undefined.

    Args:
        heat_maps: (height, width) by name of the slide.
        outlined: Masks of the same size: booleans, or shares of area such as `OutlineMask.shares()[0]`.
        threshold: From which value on a pixel counts as found.
        groups: Patient of each slide: all slides of a patient are drawn together.
        resamples: Number of resamples.
        level: Share of resamples that the interval holds.
        seed: Of the resamples; the same numbers give the same intervals.

    Returns:
        Of each slide: columns `slide`, `pointing_game`, `dice`, `found`, `outlined`, `both` (areas in pixels). Of all:
        columns `score` (`pointing_game` and `dice`, means over the slides that have one; `pooled_dice`, of all pixels
        together), `value`, `low`, `high`, `note` (why a number is missing).

    Raises:
        LesionError: naming the slide, if a mask is missing, of another size, or no shares, or a number is not finite.
    """
    if not heat_maps or set(heat_maps) != set(outlined) or (groups is not None and not set(heat_maps) <= set(groups)):
        raise LesionError("heat maps, masks and groups are not of the same slides. Pass one of each for each slide.")
    if not 0 < level < 1 or resamples < 0 or np.isnan(threshold):
        raise LesionError(
            f"level={level} must be between 0 and 1, resamples={resamples} not below 0, threshold a number."
        )
    slides = pd.DataFrame([_of_slide(name, heat, outlined[name], threshold) for name, heat in heat_maps.items()])
    of_slide = None if groups is None else np.array([groups[name] for name in heat_maps], dtype=object)
    strata = (slides["outlined"].to_numpy() > 0).astype(np.int64)
    counts = [np.ones((len(slides), 1)), *resample(units_of(of_slide, strata, len(slides)), resamples, seed)]
    values = np.concatenate([_of_all(slides, part) for part in counts], axis=1)
    why = ("no slide has outlines", "no slide has outlines or anything found", "nothing is outlined or found")
    found: list[Interval] = [
        interval(float(one[0]), one[1:], level, what) for one, what in zip(values, why, strict=True)
    ]
    names = ("pointing_game", "dice", "pooled_dice")
    rows = [
        {"score": name, "value": one.value, "low": one.low, "high": one.high, "note": one.note}
        for name, one in zip(names, found, strict=True)
    ]
    return slides, pd.DataFrame(rows)


def _of_slide(name: str, heat_map: Numbers, outlined: NDArray[np.generic], threshold: float) -> dict[str, object]:
    heat, share = _checked(heat_map, f"the heat map of '{name}'"), _checked(outlined, f"the mask of '{name}'")
    if heat.shape != share.shape or share.min() < 0 or share.max() > 1:
        raise LesionError(
            f"the mask of '{name}' is {share.shape}, from {share.min():g} to {share.max():g}; it must have "
            f"the size of its heat map, {heat.shape}, and be from 0 to 1. Make "
            "it on the grid of the map: OutlineMask(..., Grid(...))."
        )
    is_found = heat >= threshold
    both, total = float(share[is_found].sum()), float(is_found.sum() + share.sum())
    pointing = float(share[heat == heat.max()].mean()) if share.any() else np.nan
    dice = 2 * both / total if total else np.nan
    areas = {"found": float(is_found.sum()), "outlined": float(share.sum()), "both": both}
    return {"slide": name, "pointing_game": pointing, "dice": dice, **areas}


def _of_all(slides: pd.DataFrame, counts: Numbers) -> Numbers:
    """Pointing game, Dice and pooled Dice of each resample: (3, resamples)."""

    def ratio(above: Numbers, below: Numbers) -> Numbers:
        with np.errstate(invalid="ignore"):
            divided: Numbers = (above @ counts) / (below @ counts)
        return divided

    pointing, dice = slides["pointing_game"].to_numpy(), slides["dice"].to_numpy()
    means = [ratio(np.nan_to_num(score), (~np.isnan(score)).astype(np.float64)) for score in (pointing, dice)]
    total = (slides["found"] + slides["outlined"]).to_numpy()
    return np.stack([*means, ratio(2 * slides["both"].to_numpy(), total)])


def _checked(pixels: NDArray[np.generic], name: str) -> Numbers:
    found = np.asarray(pixels, np.float64)
    if found.ndim != 2 or not found.size or not np.isfinite(found).all():
        raise LesionError(f"{name} is {found.shape}; it must be (height, width), of finite numbers. Fill gaps first.")
    return found
