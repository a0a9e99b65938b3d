"""The compared slide readers, with the same three tasks (a whole level, patches, strips).

Every class opens the file in `__init__` and returns uint8 arrays of (height, width, 3). Imports are made there too, so
that a missing package does not stop the other readers. All of them work on one thread.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]


class Wsidata:
    """`wsidata.Slide`."""

    def __init__(self, path: Path) -> None:
        from wsidata.slides.slide import Slide

        self.slide = Slide(path)
        self.sizes = [level.size for level in self.slide.levels]

    def level(self, level: int) -> Pixels:
        return self.slide.numpy(level=level)

    def region(self, level: int, x: int, y: int, width: int, height: int) -> Pixels:
        scale = self.slide.levels[level].downsample_x
        return self.slide.read_region(round(x * scale), round(y * scale), width, height, level)


class WsidataLazily(Wsidata):
    """`wsidata.LazyImage`: rows of a level; regions as `Wsidata`."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.lazy: dict[int, Any] = {}

    def region(self, level: int, x: int, y: int, width: int, height: int) -> Pixels:
        if (x, width) != (0, self.sizes[level][0]):
            return super().region(level, x, y, width, height)
        if level not in self.lazy:
            self.lazy[level] = self.slide.lazy(level=level)
        rows: Pixels = self.lazy[level].rows(y, y + height).permute(1, 2, 0).numpy()
        return rows


class Limit:
    """Lower bound: the bytes of the tiles through libjpeg-turbo, the pixels discarded."""

    def __init__(self, path: Path) -> None:
        import tifffile

        self.tiff = tifffile.TiffFile(path)
        self.pages = [level.keyframe for level in self.tiff.series[0].levels]
        self.sizes = [(page.imagewidth, page.imagelength) for page in self.pages]
        self.nothing = np.zeros((1, 1, 3), np.uint8)
        self.tiles = [list(zip(page.dataoffsets, page.databytecounts, strict=True)) for page in self.pages]

    def decoder(self, tables: bytes) -> Any:
        import simplejpeg

        prefix = tables[:-2]
        return lambda data: simplejpeg.decode_jpeg(prefix + data[2:] if prefix else data)

    def level(self, level: int) -> Pixels:
        return self.region(level, 0, 0, *self.sizes[level])

    def region(self, level: int, x: int, y: int, width: int, height: int) -> Pixels:
        return self.decode(level, self.tiles_at(level, x, y, width, height))

    def tiles_at(self, level: int, x: int, y: int, width: int, height: int) -> list[int]:
        """Numbers of the tiles that a region touches."""
        page = self.pages[level]
        across = -(-page.imagewidth // page.tilewidth)
        rows = range(y // page.tilelength, -(-(y + height) // page.tilelength))
        columns = range(x // page.tilewidth, -(-(x + width) // page.tilewidth))
        return [row * across + column for row in rows for column in columns]

    def decode(self, level: int, numbers: Iterable[int]) -> Pixels:
        """Decode some tiles."""
        tiles, descriptor = self.tiles[level], self.tiff.filehandle.fileno()
        decode = self.decoder(self.pages[level].jpegtables or b"")
        for number in numbers:
            offset, count = tiles[number]
            decode(os.pread(descriptor, count, offset))
        return self.nothing


class LimitImagecodecs(Limit):
    """The same with imagecodecs."""

    def decoder(self, tables: bytes) -> Any:
        from imagecodecs import jpeg8_decode

        return lambda data: jpeg8_decode(data, tables=tables or None)


class Vips:
    """libvips as it is: `tiffload`, then `numpy()` or `crop`."""

    def __init__(self, path: Path) -> None:
        import pyvips

        def load(page: int, access: str) -> Any:
            return pyvips.Image.tiffload(str(path), page=page, access=access)

        self.load = load
        count = load(0, "random").get("n-pages")
        self.images = [load(page, "random") for page in range(count)]
        self.sizes = [(image.width, image.height) for image in self.images]

    def level(self, level: int) -> Pixels:
        return np.asarray(self.load(level, "sequential").numpy())

    def region(self, level: int, x: int, y: int, width: int, height: int) -> Pixels:
        return np.asarray(self.images[level].crop(x, y, width, height).numpy())


class Tifffile:
    """tifffile: `asarray` for levels, its zarr store for regions."""

    def __init__(self, path: Path) -> None:
        import tifffile
        import zarr

        self.tiff = tifffile.TiffFile(path)
        self.levels = self.tiff.series[0].levels
        self.sizes = [(level.keyframe.imagewidth, level.keyframe.imagelength) for level in self.levels]
        stores = [self.tiff.aszarr(series=0, level=level, maxworkers=1) for level in range(len(self.levels))]
        self.arrays = [zarr.open(store, mode="r") for store in stores]

    def level(self, level: int) -> Pixels:
        return self.levels[level].asarray(maxworkers=1)

    def region(self, level: int, x: int, y: int, width: int, height: int) -> Pixels:
        return np.asarray(self.arrays[level][y : y + height, x : x + width])


class Openslide:
    """OpenSlide, alpha dropped."""

    def __init__(self, path: Path) -> None:
        import openslide

        self.slide = openslide.OpenSlide(path)
        self.sizes = self.slide.level_dimensions

    def level(self, level: int) -> Pixels:
        return self.region(level, 0, 0, *self.sizes[level])

    def region(self, level: int, x: int, y: int, width: int, height: int) -> Pixels:
        scale = self.slide.level_downsamples[level]
        image = self.slide.read_region((round(x * scale), round(y * scale)), level, (width, height))
        return np.asarray(image.convert("RGB"))


class Tiffslide(Openslide):
    """tiffslide, as arrays."""

    def __init__(self, path: Path) -> None:
        import tiffslide

        self.slide = tiffslide.TiffSlide(path)
        self.sizes = self.slide.level_dimensions

    def region(self, level: int, x: int, y: int, width: int, height: int) -> Pixels:
        scale = self.slide.level_downsamples[level]
        place = round(x * scale), round(y * scale)
        return np.asarray(self.slide.read_region(place, level, (width, height), as_array=True))


class Cucim:
    """cuCIM on the CPU. Beside PyTorch it hangs, so it is measured without."""

    beside_torch = False

    def __init__(self, path: Path) -> None:
        from cucim import CuImage

        self.slide = CuImage(str(path))
        self.sizes = self.slide.resolutions["level_dimensions"]
        self.scales = self.slide.resolutions["level_downsamples"]

    def level(self, level: int) -> Pixels:
        return self.region(level, 0, 0, *self.sizes[level])

    def region(self, level: int, x: int, y: int, width: int, height: int) -> Pixels:
        scale = self.scales[level]
        return np.asarray(self.slide.read_region((round(x * scale), round(y * scale)), (width, height), level))


class Fastslide:
    """fastslide, without a cache; its coordinates are those of the level."""

    def __init__(self, path: Path) -> None:
        from fastslide import FastSlide

        self.slide = FastSlide.from_file_path(path)
        self.sizes = self.slide.level_dimensions

    def level(self, level: int) -> Pixels:
        return self.region(level, 0, 0, *self.sizes[level])

    def region(self, level: int, x: int, y: int, width: int, height: int) -> Pixels:
        return np.asarray(self.slide.read_region((x, y), level, (width, height)).numpy())


READERS: dict[str, type[Any]] = {
    "limit": Limit,
    "limit-imagecodecs": LimitImagecodecs,
    "wsidata": Wsidata,
    "wsidata-lazily": WsidataLazily,
    "libvips": Vips,
    "tifffile": Tifffile,
    "openslide": Openslide,
    "tiffslide": Tiffslide,
    "cucim": Cucim,
    "fastslide": Fastslide,
}


def run(reader: Any, task: str) -> Iterator[Pixels]:
    """Run the parts of a task, one after another.

    Args:
        reader: An instance of one of `READERS`.
        task: "level-WIDTH", the whole level of that width; "patches-WIDTH", 1000 patches of 256x256 at random places of
            that level; "grid-WIDTH", up to 1000 tiles of a grid of 256x256, row by row, beginning elsewhere than
            the tiles of the file; "strips-WIDTH", all of it in full-width strips of 512 rows.
    """
    kind, width = task.split("-")
    level = [size[0] for size in reader.sizes].index(int(width))
    columns, rows = reader.sizes[level]
    if kind == "level":
        yield reader.level(level)
    elif kind == "patches":
        rng = np.random.default_rng(0)
        for x, y in zip(rng.integers(0, columns - 256, 1000), rng.integers(0, rows - 256, 1000), strict=True):
            yield reader.region(level, int(x), int(y), 256, 256)
    elif kind == "grid":
        places = [(x, y) for y in range(100, rows - 256, 256) for x in range(100, columns - 256, 256)]
        for x, y in places[:1000]:
            yield reader.region(level, x, y, 256, 256)
    else:
        for y in range(0, rows, 512):
            yield reader.region(level, 0, y, columns, min(512, rows - y))
