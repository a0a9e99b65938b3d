"""The tiles of a slide, planned once, with its tissue and the labels of its annotations."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from wsidata.tiles.grid import TileGrid, Tiles
from wsidata.tiles.labels import NO_LABEL, LabelRule, OutlinedAreas
from wsidata.tiles.tissue import PackedTissue, TissuePlaces
from wsidata.utils.rectangle import Rectangle

TRIES = 100
"""Places that are drawn before a tile of the grid is taken instead, which keeps all rules."""


@dataclass(frozen=True, eq=False)
class TilePlan:
    """The tiles of one slide.

    Attributes:
        tiles: Those of the grid, with enough tissue.
        tissue: The tissue; None where there is no rule about it.
        labels: (n,) class of each tile by the annotations, and `NO_LABEL`; None if labels are those of slides.
        areas: What the annotations cover.
    """

    tiles: Tiles
    tissue: PackedTissue | None = None
    labels: NDArray[np.int16] | None = None
    areas: OutlinedAreas | None = field(default=None, repr=False)

    @property
    def labeled(self) -> TilePlan:
        """Without the tiles that have no label."""
        if self.labels is None or (self.labels != NO_LABEL).all():
            return self
        kept = self.labels != NO_LABEL
        return TilePlan(self.tiles[kept], self.tissue, self.labels[kept], self.areas)

    def labeled_by(self, areas: OutlinedAreas, rule: LabelRule) -> TilePlan:
        """With the labels of annotations."""
        return replace(self, labels=rule.labels(areas.shares(*self.tiles.edges_lv0)), areas=areas)


@dataclass(frozen=True)
class DrawnTile:
    """A tile at a random place.

    Attributes:
        place: The tile in the image at the resolution.
        label: Its class by the annotations; None if labels are those of slides.
    """

    place: Rectangle
    label: int | None


def draw_tile(
    plan: TilePlan,
    places: TissuePlaces,
    grid: TileGrid,
    rule: LabelRule | None,
    wanted: int | None,
    rng: np.random.Generator,
) -> DrawnTile:
    """A tile whose center is uniform over the tissue, or over what a class of annotations covers.

    It is drawn again until it has enough tissue, and the wanted label if there is one; after `TRIES` times a tile of
    the grid is taken. At the edges of a slide tiles are moved inside, if they are not padded there.

    Args:
        plan: The slide's. It has such tiles.
        places: Draws points in its tissue.
        grid: The grid, whose rules hold.
        rule: How annotations label tiles.
        wanted: The class that is wanted. None: any.
        rng: The generator of the sample.
    """
    for _ in range(TRIES):
        point = plan.areas.draw(wanted, rng) if wanted and plan.areas is not None else places.draw(rng)
        place = _around(point, plan.tiles, padded=grid.border == "pad")
        edges = _edges(place, plan.tiles)
        if grid.min_tissue and places.share(*edges) < grid.min_tissue:
            continue
        label = None
        if plan.areas is not None and rule is not None:
            label = int(rule.labels(plan.areas.shares(*(np.array([edge]) for edge in edges)))[0])
            if label == NO_LABEL or wanted not in (None, label):
                continue
        return DrawnTile(place, label)
    fitting = np.arange(len(plan.tiles))
    if plan.labels is not None:
        fitting = np.flatnonzero(plan.labels != NO_LABEL if wanted is None else plan.labels == wanted)
    number = int(rng.choice(fitting))
    return DrawnTile(plan.tiles.at(number), None if plan.labels is None else int(plan.labels[number]))


def _around(point: tuple[float, float], tiles: Tiles, *, padded: bool) -> Rectangle:
    """The tile whose center lies at a point of level 0."""
    x = round(point[0] / tiles.downsample_x - tiles.width / 2)
    y = round(point[1] / tiles.downsample_y - tiles.height / 2)
    if not padded:
        x = min(max(0, x), max(0, tiles.image_width - tiles.width))
        y = min(max(0, y), max(0, tiles.image_height - tiles.height))
    return Rectangle(x, y, tiles.width, tiles.height)


def _edges(place: Rectangle, tiles: Tiles) -> tuple[float, float, float, float]:
    right, bottom = place.x + place.width, place.y + place.height
    left_lv0, top_lv0 = place.x * tiles.downsample_x, place.y * tiles.downsample_y
    return left_lv0, top_lv0, right * tiles.downsample_x, bottom * tiles.downsample_y
