"""Datasets of tiles of slides, on a grid or at random places, one sample each or a bag a slide.

A sample is a pure function of slide, place, transform, seed, epoch and row. Random places are drawn by a generator of
their own from the epoch's seed and the row, in the worker.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import cached_property, lru_cache
from types import TracebackType
from typing import Any, Generic, Literal, TypeVar

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from wsidata.datasets.epochs import TableDataset
from wsidata.datasets.slides import SlideDataset
from wsidata.remote.address import shown
from wsidata.slides.lazy_image import as_tensor
from wsidata.slides.slide import Slide
from wsidata.slides.tissue.packing import Packing
from wsidata.tiles.grid import TileGrid, tile_packing
from wsidata.tiles.labels import LabelRule
from wsidata.tiles.plan import DrawnTile, TilePlan, draw_tile
from wsidata.tiles.tissue import PackedTissue, TissuePlaces
from wsidata.utils.rectangle import PartReader, Rectangle

Balance = Literal["tissue", "slides", "classes", "annotations"]
"""What random places are drawn equally often from: a unit of tissue area, a slide, or a class of slides or tiles."""

OPEN_SLIDES = 4
"""Slides that a process keeps open, with the tiles of the file that neighboring tiles share."""

_PLACES = 1  # of the streams of random numbers that follow from the seed of an epoch

T = TypeVar("T")


class KeptSlide(Slide):
    """A slide that stays open behind a `with` block, unless an error leaves it, and keeps the readers of its regions.

    Decoded tiles of the file that a region cuts are kept for the regions beside it.
    """

    rim_px = 0
    """How far tiles reach into their neighbors, on each side."""

    def regions(self, rim_px: int = 0, **resolution: Any) -> PartReader | None:
        """See `Slide.regions`."""
        key = tuple(sorted(resolution.items()))
        readers = self.__dict__.setdefault("_readers", {})
        if key not in readers:
            readers[key] = super().regions(max(rim_px, self.rim_px), **resolution)
        found: PartReader | None = readers[key]
        return found

    def close(self) -> None:
        """Close it, and drop its readers."""
        self.__dict__.pop("_readers", None)
        super().close()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self.close()

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        state.pop("_readers", None)
        return state

    @property
    def is_closed(self) -> bool:
        """Whether it has to be opened again."""
        return self._closed


class _OfSlides(Generic[T], Sequence[T]):
    """What rows have from their slides."""

    def __init__(self, values: Sequence[T], slide_of: Callable[[int], int], count: int) -> None:
        self.values, self._slide_of, self._count = values, slide_of, count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, row: Any) -> Any:
        return self.values[self._slide_of(row)]


class TileDataset(SlideDataset):
    """Dataset of the tiles of the slides of a table.

    Args:
        table: The slides, as for `SlideDataset`.
        plans: The tiles of each slide, in the order of the table.
        grid: The grid that they are planned by.
        transform: As for `SlideDataset`, like the other options.
        rule: How annotations label tiles. None: targets are those of the slides.
        random_tiles: Random places in an epoch. None: all tiles of the grid, slide by slide.
        balance: What random places are drawn equally often from.
        with_places: Samples are `(image, place)`: (3,) int64, the number of the slide in the table, and x and y of the
            tile in pixels of level 0.
        **options: Further arguments of `SlideDataset`.
    """

    noun = "tile"

    def __init__(
        self,
        table: pd.DataFrame,
        plans: Sequence[TilePlan],
        grid: TileGrid,
        transform: Any,
        *,
        rule: LabelRule | None = None,
        random_tiles: int | None = None,
        balance: Balance = "tissue",
        with_places: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(table, grid.resolution, transform, with_labels=not with_places, **options)
        self.grid, self.rule, self.with_places = grid, rule, with_places
        self.plans = [plan.labeled if rule is not None and not with_places else plan for plan in plans]
        self.random_tiles, self.balance = random_tiles, balance
        self._ends: list[int] = np.cumsum([len(plan.tiles) for plan in self.plans], dtype=np.int64).tolist()
        self._open: OrderedDict[tuple[int, bool], KeptSlide] = OrderedDict()
        self._chosen: tuple[tuple[int, int], tuple[int, int | None]] | None = None
        self._drawn: tuple[tuple[int, int], DrawnTile] | None = None
        for name in ("paths", "image_ids", "targets", "masks"):
            values = getattr(self, name)
            setattr(self, name, None if values is None else _OfSlides(values, self.slide_of, len(self)))

    def __len__(self) -> int:
        if self.random_tiles is not None:
            return self.random_tiles
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, index: int) -> Any:
        """`(image, target)`, or `(image, place)`."""
        if self.with_places:
            return self.image(index), self.place(index % len(self))
        if self.rule is None:
            return super().__getitem__(index)
        return self.image(index), self.label(index % len(self))

    def place(self, row: int) -> Tensor:
        """Where a tile lies: (3,) int64, see `with_places`."""
        slide, tile = self.slide_of(row), self.tile(row)
        plan = self.plans[slide].tiles
        x, y = tile.x * plan.downsample_x, tile.y * plan.downsample_y
        return torch.tensor([slide, *np.ceil(np.array([x, y]) - 0.5).astype(np.int64).tolist()])

    def label(self, row: int) -> int:
        """The class of a tile; -1 where the target is not one class."""
        if self.rule is None:
            return self.labels[self.slide_of(row)]
        if self.random_tiles is not None:
            label = self._draw(row).label
            assert label is not None
            return label
        slide, number = self._grid_place(row)
        labels = self.plans[slide].labels
        assert labels is not None
        return int(labels[number])

    def tile_labels(self) -> list[int]:
        """The classes of all tiles of the grid, as they follow one another."""
        if self.rule is None:
            counts = [len(plan.tiles) for plan in self.plans]
            return np.repeat(np.array(self.labels, np.int64), counts).tolist()
        return [int(label) for plan in self.plans if plan.labels is not None for label in plan.labels]

    def slide_of(self, row: int) -> int:
        """Number of the slide of a row."""
        return self._grid_place(row)[0] if self.random_tiles is None else self._choose(row)[0]

    def tile(self, row: int) -> Rectangle:
        """The tile of a row, in pixels of the image at the resolution."""
        if self.random_tiles is not None:
            return self._draw(row).place
        slide, number = self._grid_place(row)
        return self.plans[slide].tiles.at(number)

    def packing(self, row: int, slide: Slide | None = None) -> Packing:
        """The crop of a slide to the tile of a row."""
        tiles = self.plans[self.slide_of(row)].tiles
        downsample = tiles.downsample_x, tiles.downsample_y
        return tile_packing(self.tile(row), tiles.image_width, tiles.image_height, downsample)

    def open_slide(self, row: int) -> Slide:
        """The slide of a row, which stays open for the next of its tiles."""
        key = self.slide_of(row), self.stage is None
        kept = self._open.pop(key, None)
        if kept is None or kept.is_closed:
            while len(self._open) >= OPEN_SLIDES:
                self._open.popitem(last=False)[1].close()
            kept = KeptSlide.from_options(self.paths[row], self.options, self.stage)
            (tall, wide), (down, right) = self.grid.size, self.grid.step
            kept.rim_px = -(-max(0, tall - down, wide - right) // 2) if self.random_tiles is None else 0
        self._open[key] = kept
        return kept

    def describe_row(self, row: int) -> str:
        """The tile, its place, and its slide with its file."""
        tile = self.tile(row)
        return (
            f"tile at x={tile.x}, y={tile.y} ({self.describe()}) of '{self.image_ids[row]}' ({shown(self.paths[row])})"
        )

    def first_of(self, slide: int) -> int:
        """The first row of a slide's tiles, on the grid."""
        return self._ends[slide - 1] if slide else 0

    def _grid_place(self, row: int) -> tuple[int, int]:
        """Number of the slide, and number of the tile on it."""
        slide = bisect_right(self._ends, row)
        return slide, row - self.first_of(slide)

    def _choose(self, row: int) -> tuple[int, int | None]:
        """The slide of a random place, and the label that is wanted of it (None for any); the last is remembered."""
        key = self.epoch_seed, row
        if self._chosen is None or self._chosen[0] != key:
            slides, sums, wanted = self._choices
            rng = np.random.default_rng([self.epoch_seed, row, _PLACES])
            group = int(rng.integers(len(slides)))
            number = int(np.searchsorted(sums[group], rng.random() * sums[group][-1], side="right"))
            self._chosen = key, (int(slides[group][min(number, len(slides[group]) - 1)]), wanted[group])
        return self._chosen[1]

    @cached_property
    def _choices(self) -> tuple[list[NDArray[np.int64]], list[NDArray[np.float64]], list[int | None]]:
        """Groups that are drawn equally often: their slides, the sums of the slides' weights, and their label."""
        areas = np.array([self._tissue(slide).area_lv0 for slide in range(len(self.plans))])
        weights = areas if self.balance == "tissue" else (areas > 0).astype(np.float64)  # no place without tissue
        groups: list[tuple[int | None, NDArray[np.float64]]] = [(None, weights)]
        if self.balance == "classes":
            labels = np.array(self.labels)
            groups = [(None, weights * (labels == label)) for label in np.unique(labels)]
        elif self.balance == "annotations":
            counts = [np.bincount(plan.labels) for plan in self.plans if plan.labels is not None]
            found = max(map(len, counts))
            table = np.array([np.pad(count, (0, found - len(count))) for count in counts], np.float64)
            table[:, 0] *= areas > 0  # the other labels are drawn in outlines
            groups = [(label, table[:, label]) for label in range(found) if table[:, label].any()]
        chosen = [np.flatnonzero(weight) for _, weight in groups]
        if not all(map(len, chosen)):
            raise ValueError("no slide, or none of a class, has tissue for random places. Pass train_tiles='grid'.")
        sums = [weight[slides].cumsum() for (_, weight), slides in zip(groups, chosen, strict=True)]
        return chosen, sums, [label for label, _ in groups]

    def _draw(self, row: int) -> DrawnTile:
        """The random tile of a row in this epoch; the last is remembered."""
        key = self.epoch_seed, row
        if self._drawn is None or self._drawn[0] != key:
            slide, wanted = self._choose(row)
            rng = np.random.default_rng([self.epoch_seed, row, _PLACES + 1])
            drawn = draw_tile(self.plans[slide], self._tissue(slide), self.grid, self.rule, wanted, rng)
            self._drawn = key, drawn
        return self._drawn[1]

    def _tissue(self, slide: int) -> TissuePlaces:
        tissue = self.plans[slide].tissue
        assert tissue is not None
        return _tissue_places(tissue)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_open": OrderedDict(), "_chosen": None, "_drawn": None}


@lru_cache(maxsize=64)
def _tissue_places(tissue: PackedTissue) -> TissuePlaces:
    return TissuePlaces(tissue.mask())


class TileBagDataset(TableDataset):
    """Dataset of slides, each with its tiles as one sample, (N, C, H, W).

    Args:
        table: The slides.
        tiles: Their tiles, all of the grid.
        max_tiles: The most tiles of a bag. In training so many are drawn anew each epoch, in the order of the grid;
            else they are spread evenly over it. None: all.
    """

    def __init__(self, table: pd.DataFrame, tiles: TileDataset, max_tiles: int | None = None) -> None:
        fresh = tiles.fresh_epochs
        super().__init__(table, tiles.transform, dtype=tiles.dtype, with_labels=tiles.with_labels, fresh_epochs=fresh,
                         stage=tiles.stage)  # fmt: skip
        self.tiles, self.max_tiles = tiles, max_tiles
        tiles._epoch_seed = self._epoch_seed

    def __getitem__(self, index: int) -> Any:
        """`(tiles, target)`, or `(tiles, places)` with (N, 2) int64: x and y of each in pixels of level 0."""
        bag, row = self.image(index), index % len(self)
        if self.tiles.with_places:
            return bag, torch.from_numpy(self.tiles.plans[row].tiles[self.chosen(index)].coords_lv0)
        return bag, self.targets[row]

    def image(self, index: int) -> Tensor:
        """The tiles of one slide, (N, C, H, W)."""
        turn, row = divmod(index, len(self))
        first = self.tiles.first_of(row) + turn * len(self.tiles)  # drawn twice, a slide is augmented twice
        with self.naming(row):
            self.tiles.decode_threads = self._threads
            images = [as_tensor(self.tiles.image(first + number)) for number in self.chosen(index).tolist()]
            return torch.stack([image.permute(1, 2, 0) for image in images]).permute(0, 3, 1, 2)

    def chosen(self, index: int) -> NDArray[np.int64]:
        """Numbers of the tiles in a bag, in order."""
        count = len(self.tiles.plans[index % len(self)].tiles)
        if self.max_tiles is None or count <= self.max_tiles:
            return np.arange(count)
        if self.fresh_epochs:
            rng = np.random.default_rng([self.epoch_seed, index, _PLACES])
            return np.sort(rng.choice(count, self.max_tiles, replace=False))
        return np.linspace(0, count - 1, self.max_tiles).round().astype(np.int64)

    def describe(self) -> str:
        """The resolution, and the channels if some were chosen."""
        return self.tiles.describe()
