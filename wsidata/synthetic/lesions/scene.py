"""What lies where on a synthetic slide, before any pixel is painted.

A scene is pieces of tissue on glass, types of tissue in them, and patches of crowded nuclei, each a lesion or a mimic.
Whether a patch is a lesion changes the texture of its nuclei and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import cv2
import numpy as np
from numpy.typing import NDArray

from wsidata.annotations.annotations import Annotations
from wsidata.annotations.outline import Outline, OutlineClass
from wsidata.synthetic.lesions.cells import SPACING_PX, STAMP_PX

Field = NDArray[np.float32]

LEAST_AREA_PX = 700.0
"""Area of the smallest patch, one nucleus and what surrounds it, in pixels of level 0."""
_CORNERS, _ROOM_PX = 64, 16.0


@dataclass(frozen=True)
class Patch:
    """A patch of crowded nuclei with a star-shaped border.

    Attributes:
        x: Center in pixels of level 0.
        y: Center in pixels of level 0.
        area_px: Its area.
        waves: Strength and phase of the border's waves, (n, 2).
        is_lesion: Whether its nuclei have the lesion's texture, or the mimics'.
        seed: Of the places of its nuclei.
    """

    x: float
    y: float
    area_px: float
    waves: NDArray[np.float64]
    is_lesion: bool
    seed: int

    def radius(self, angle: NDArray[np.float64]) -> NDArray[np.float64]:
        """Distance of the border from the center, by the angle in radians."""
        order = np.arange(2, 2 + len(self.waves))
        ripple = (self.waves[:, 0] * np.cos(order * angle[..., None] + self.waves[:, 1])).sum(axis=-1)
        return np.asarray(np.sqrt(self.area_px / np.pi / (1 + 0.5 * (self.waves[:, 0] ** 2).sum())) * (1 + ripple))

    @cached_property
    def ring(self) -> NDArray[np.float64]:
        """The border as a polygon, (N, 2) x and y in pixels of level 0."""
        angle = np.linspace(0, 2 * np.pi, _CORNERS, endpoint=False)
        radius = self.radius(angle)
        return np.stack([self.x + radius * np.cos(angle), self.y + radius * np.sin(angle)], axis=1)

    @cached_property
    def reach(self) -> float:
        """Distance of the farthest point of the border from the center."""
        return float(self.radius(np.linspace(0, 2 * np.pi, _CORNERS, endpoint=False)).max())

    @cached_property
    def cells(self) -> NDArray[np.int64]:
        """Left and upper edge of each nucleus in pixels of level 0, and its number among the painted ones, (n, 3)."""
        rng = np.random.default_rng(self.seed)
        steps = np.arange(-self.reach, self.reach, SPACING_PX) + rng.uniform(0, SPACING_PX)
        dx, dy = (axis.ravel() for axis in np.meshgrid(steps, steps))
        dx, dy = dx + rng.uniform(-5, 5, dx.size), dy + rng.uniform(-5, 5, dx.size)
        inside = np.hypot(dx, dy) < np.maximum(self.radius(np.arctan2(dy, dx)) - 0.2 * STAMP_PX, 0)
        places = np.stack([dx, dy], axis=1)[inside & (rng.random(dx.size) < 0.92)]
        if not len(places):
            places = np.zeros((1, 2))
        corner = np.floor(places + np.array([self.x, self.y])).astype(np.int64) - STAMP_PX // 2
        return np.concatenate([corner, rng.integers(0, 1 << 30, (len(corner), 1))], axis=1)


@dataclass(frozen=True)
class Scene:
    """What lies where on a square slide.

    Attributes:
        side_px: Side of level 0.
        cell_px: Side of a cell of the fields.
        edge: Distance from the border of the tissue in pixels of level 0, negative on glass; a field.
        types: Share of each type of tissue but stroma, by its name; fields.
        thickness: Factor of all stains; a field.
        patches: Lesions and mimics.
        seed: Of the place and direction of the ground.
    """

    side_px: int
    cell_px: int
    edge: Field
    types: Mapping[str, Field]
    thickness: Field
    patches: Sequence[Patch]
    seed: int

    @property
    def tissue_px(self) -> float:
        """Area of the tissue in pixels of level 0."""
        return float((self.edge > 0).sum()) * self.cell_px**2

    @property
    def lesions(self) -> list[Patch]:
        """The patches that are lesions."""
        return [one for one in self.patches if one.is_lesion]

    def labeled(self, is_lesion: Sequence[bool]) -> Scene:
        """The same scene with another choice of which patches are lesions."""
        patches = [replace(one, is_lesion=bool(is_it)) for one, is_it in zip(self.patches, is_lesion, strict=True)]
        return replace(self, patches=patches)

    def outlines(self) -> Annotations:
        """Outlines of the lesions, of the class Tumor."""
        outlines = [Outline(((one.ring,),), "Tumor", f"Annotation {number}") for number, one in enumerate(self.lesions)]
        return Annotations(tuple(outlines), (OutlineClass("Tumor", (244, 250, 88)),))


def cell_side(side_px: int) -> int:
    """Side of a cell of the fields of a slide in pixels of level 0."""
    return max(8 if side_px < 1024 else 16, side_px // 512)


def noise(cells: int, knots: float, rng: np.random.Generator) -> Field:
    """A field of smooth noise of deviation 1 with about `knots` blobs along a side."""
    coarse = rng.standard_normal((round(knots) + 4, round(knots) + 4), dtype=np.float32)
    fine = cv2.resize(coarse, (cells + 2 * (cells // 8), cells + 2 * (cells // 8)), interpolation=cv2.INTER_CUBIC)
    cut = fine[cells // 8 :][:cells, cells // 8 :][:, :cells]
    return np.asarray((cut - cut.mean()) / cut.std(), dtype=np.float32)


def pieces(side_px: int, rng: np.random.Generator, share: tuple[float, float] = (0.25, 0.4)) -> Field:
    """Two to four ragged pieces of tissue that cover a share of a slide, as `Scene.edge`."""
    cells, count = side_px // cell_side(side_px), int(rng.integers(2, 5))
    y, x = np.mgrid[:cells, :cells].astype(np.float32) / cells
    start, nearest = rng.uniform(0, 2 * np.pi), np.full((cells, cells), 9.0, dtype=np.float32)
    for number in range(count):
        angle = start + 2 * np.pi * number / count
        center = 0.5 + 0.25 * np.array([np.cos(angle), np.sin(angle)]) + rng.uniform(-0.02, 0.02, 2)
        long, slim, turn = rng.uniform(0.9, 1.3), rng.uniform(0.7, 1.0), rng.uniform(0, np.pi)
        across = (x - center[0]) * np.cos(turn) + (y - center[1]) * np.sin(turn)
        down = (y - center[1]) * np.cos(turn) - (x - center[0]) * np.sin(turn)
        np.minimum(nearest, np.hypot(across / long, down / slim), out=nearest)
    field = nearest + 0.03 * noise(cells, 7, rng) + 0.012 * noise(cells, 25, rng)
    frame = np.maximum(np.abs(x - 0.5), np.abs(y - 0.5)) > 0.48  # glass all around
    field[frame] = 9
    return edge_of(field < np.quantile(field, rng.uniform(*share)), side_px)


def edge_of(mask: NDArray[np.bool_], side_px: int) -> Field:
    """Signed distance from the border of a mask on the cells of a slide, in pixels of level 0, positive inside."""
    inside = mask.astype(np.uint8)
    distance = [cv2.distanceTransform(np.pad(one, 1, mode="edge"), cv2.DIST_L2, 5) for one in (inside, 1 - inside)]
    signed = (distance[0] - distance[1])[1:-1, 1:-1]
    signed -= 0.5 * np.sign(signed)
    return np.asarray(cv2.GaussianBlur(signed, (0, 0), 0.7) * cell_side(side_px), dtype=np.float32)


class Placement:
    """Patches placed one by one in a region, none touching another."""

    def __init__(self, edge: Field, side_px: int, rng: np.random.Generator) -> None:
        self.cell_px, self.rng = cell_side(side_px), rng
        self.free = edge.copy()
        cells = len(edge)
        self.y, self.x = np.mgrid[:cells, :cells].astype(np.float32) * self.cell_px + self.cell_px / 2
        self.placed: list[Patch] = []

    def place(
        self, area_px: float, *, near: tuple[float, float, float, float] | None = None, within: Field | None = None
    ) -> Patch | None:
        """A mimic of an area, anywhere, or None where there is no room.

        Args:
            area_px: Its area.
            near: (x, y, least, most): the distance of its center from a point, in pixels of level 0.
            within: A further region as a signed distance.
        """
        waves = np.stack([self.rng.uniform(0, (0.16, 0.12, 0.08, 0.05)), self.rng.uniform(0, 2 * np.pi, 4)], axis=1)
        patch = Patch(0.0, 0.0, area_px, waves, False, int(self.rng.integers(1 << 31)))
        room = self.free if within is None else np.minimum(self.free, within)
        allowed = room > patch.reach + _ROOM_PX
        if near is not None:
            distance = np.hypot(self.x - near[0], self.y - near[1])
            allowed &= (distance >= near[2]) & (distance <= near[3])
        places = np.flatnonzero(allowed)
        if not places.size:
            return None
        cell = int(self.rng.choice(places))
        x, y = float(self.x.flat[cell]), float(self.y.flat[cell])
        patch = replace(patch, x=x, y=y)
        np.minimum(self.free, np.hypot(self.x - x, self.y - y) - patch.reach, out=self.free)
        self.placed.append(patch)
        return patch
