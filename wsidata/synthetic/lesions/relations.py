"""Slides whose label is a relation between structures, which no small part of the slide shows.

Both labels hold the same structures, equal in number, area, density and color: patches of crowded nuclei, half or some
of them lesions, the others mimics that differ in the texture of their nuclei alone (see `write_micrometastases`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

import cv2
import numpy as np

from wsidata.synthetic.lesions.collection import write_collection
from wsidata.synthetic.lesions.micrometastases import thickness
from wsidata.synthetic.lesions.scene import LEAST_AREA_PX, Field, Placement, Scene, cell_side, edge_of, noise, pieces
from wsidata.utils.messages import check_choice

Rule = Literal["area", "distance", "invasion"]
"""What makes a slide positive; see `write_relations`."""

NEAR, ZONE, BAND = 0.12, 0.22, 0.03
"""Shares of a slide's side: what is near, half the plain zone around the muscle, and half the muscle."""
_PAIRS, _OF_A_SIZE, _TISSUE = 4, 12, (0.4, 0.5)


def write_relations(
    folder: str | Path,
    rule: Rule,
    *,
    slides: int = 40,
    side_px: int = 1024,
    patch_share: float = 0.1,
    finest_um: float = 1.0,
    sites: int = 2,
    quality: int = 90,
    seed: int = 0,
) -> Path:
    """Write slides of 0.5 um/px labeled by a relation, a table, and outlines of the lesions of all slides.

    The files are those of `write_micrometastases`. A slide is positive by its rule:

    - "area": more than half the area of all patches is lesion. There are 12 large and 12 small patches, a third as
      large, and always 12 lesions: 8 or 9 of the large ones on positive slides, 3 or 4 on negative ones. A large
      lesion alone is weak evidence, 5 to 2; the mean over tiles of "how much lesion" can know the label.
    - "distance": the only two lesions are less than 0.12 of the side apart, center to center. Patches lie in 4 such
      pairs, far from one another; on negative slides the lesions belong to two pairs, at least 0.24 apart.
    - "invasion": the lesions lie beyond the muscle, towards fat, and as many mimics of the same sizes towards glands;
      on negative slides the two are exchanged. The tissue on both sides of the muscle is alike for 0.22 of the side, so
      that what shows a lesion does not show on which side it is, unless it is larger than about 0.1 of the side.

    Args:
        folder: Where to write; created if missing. Slides of the same names are replaced.
        rule: What makes a slide positive.
        slides: Number of slides; every second is positive.
        side_px: Side of level 0 in pixels: 256, 512, or a multiple of 1024.
        patch_share: Share of the tissue in patches, lesions and mimics together; half of it with "distance",
            and a quarter with "invasion", which have fewer.
        finest_um: Width of a clump of chromatin in lesions, in um, from 0.7 to 4.
        sites: Number of sites.
        quality: JPEG quality, 1 to 100.
        seed: The same arguments and seed give the same files; further slides leave the others alike.

    Returns:
        The folder.

    Raises:
        ValueError: for patches smaller than one cell, or if they find no room.
    """
    check_choice("rule", rule, get_args(Rule))
    if not 0 < patch_share <= 0.2:
        raise ValueError(f"patch_share={patch_share} must be above 0 and up to 0.2.")
    smallest = {"area": 0.85 / (4 * _OF_A_SIZE), "distance": 0.8 / (4 * _PAIRS), "invasion": 0.6 / 24}[rule]
    if patch_share * _TISSUE[0] * side_px**2 * smallest < LEAST_AREA_PX:
        raise ValueError(
            f"rule='{rule}' with patch_share={patch_share:g} has patches smaller than one cell on a slide of "
            f"side_px={side_px}. Make slides larger, or patch_share up to 0.2."
        )
    drawn = {"area": _area, "distance": _distance, "invasion": _invasion}[rule]

    def draw(is_positive: bool, rng: np.random.Generator) -> Scene | None:
        return drawn(is_positive, side_px, patch_share, rng)

    return write_collection(
        folder, draw, slides=slides, side_px=side_px, finest_um=finest_um, sites=sites, quality=quality, seed=seed
    )


def _area(is_positive: bool, side_px: int, share: float, rng: np.random.Generator) -> Scene | None:
    edge = pieces(side_px, rng, _TISSUE)
    unit = share * float((edge > 0).sum()) * cell_side(side_px) ** 2 / (4 * _OF_A_SIZE)
    placement = Placement(edge, side_px, rng)
    for area in (3 * unit, unit):
        for _ in range(_OF_A_SIZE):
            if placement.place(area * rng.uniform(0.85, 1.15)) is None:
                return None
    large = _OF_A_SIZE // 2 + int(rng.integers(2, 4)) * (1 if is_positive else -1)
    marks = [rng.permutation(_OF_A_SIZE) < count for count in (large, _OF_A_SIZE - large)]
    return _scene(edge, {}, placement, side_px, rng).labeled(np.concatenate(marks).tolist())


def _distance(is_positive: bool, side_px: int, share: float, rng: np.random.Generator) -> Scene | None:
    edge, near = pieces(side_px, rng, _TISSUE), NEAR * side_px
    area = share / 2 * float((edge > 0).sum()) * cell_side(side_px) ** 2 / (2 * _PAIRS)
    placement = Placement(edge, side_px, rng)
    far = np.full_like(edge, 1e6)  # distance from what is less than twice `near` from the pairs
    for _ in range(_PAIRS):
        first = placement.place(area * rng.uniform(0.8, 1.25), within=far)
        if first is None:
            return None
        ring = (first.x, first.y, 0.6 * near, near - placement.cell_px)
        second = placement.place(area * rng.uniform(0.8, 1.25), near=ring, within=far)
        if second is None:
            return None
        for one in (first, second):
            np.minimum(far, np.hypot(placement.x - one.x, placement.y - one.y) - 2 * near, out=far)
    first_pair, second_pair = rng.permutation(_PAIRS)[:2]
    other = first_pair if is_positive else second_pair
    chosen = {2 * first_pair, 2 * other + 1}
    return _scene(edge, {}, placement, side_px, rng).labeled([number in chosen for number in range(2 * _PAIRS)])


def _invasion(is_positive: bool, side_px: int, share: float, rng: np.random.Generator) -> Scene | None:
    cells, turn = side_px // cell_side(side_px), rng.uniform(0, 2 * np.pi)
    y, x = np.mgrid[:cells, :cells].astype(np.float32) / cells - 0.5
    squared = (x / rng.uniform(0.38, 0.44)) ** 2 + (y / rng.uniform(0.38, 0.44)) ** 2
    edge = edge_of(np.sqrt(squared) + 0.04 * noise(cells, 7, rng) < 1, side_px)
    beyond = x * np.cos(turn) + y * np.sin(turn) + 0.02 * noise(cells, 4, rng)
    beyond = cv2.GaussianBlur(beyond, (0, 0), 1.0)
    count = int(rng.integers(2, 4))
    area = share / 4 * float((edge > 0).sum()) * cell_side(side_px) ** 2 / (2 * count)
    areas = area * rng.uniform(0.6, 1.4, count)
    placement = Placement(edge, side_px, rng)
    for side in (1, -1):
        zone = side_px * np.minimum(side * beyond - BAND, 0.85 * ZONE - side * beyond)
        if any(placement.place(float(one), within=zone) is None for one in areas):
            return None
    types = {
        "glands": _above(-beyond, ZONE, side_px),
        "fat": _above(beyond, ZONE, side_px),
        "muscle": _above(-np.abs(beyond), -BAND, side_px),
    }
    marks = [is_positive] * count + [not is_positive] * count
    return _scene(edge, types, placement, side_px, rng).labeled(marks)


def _above(field: Field, least: float, side_px: int) -> Field:
    """1 where a field, in sides of the slide, is above a value, 0 below, with a soft border of 16 pixels."""
    return np.clip((field - least) * side_px / 16 + 0.5, 0, 1).astype(np.float32)


def _scene(edge: Field, types: dict[str, Field], placement: Placement, side_px: int, rng: np.random.Generator) -> Scene:
    thick = thickness(side_px, rng)
    return Scene(side_px, cell_side(side_px), edge, types, thick, placement.placed, int(rng.integers(1 << 31)))
