"""Images larger than memory, decoded row by row on request, for networks that stream.

Behind a `LazyImage` is a libvips pipeline: a level, resampled, cropped to its tissue or packed, augmented, padded.
`rows(start, stop)` runs the pipeline for these rows alone, in any order - downwards in a forward pass, upwards in a
backward pass - and decodes each tile once per pass:

    tiles of the level --> [kept tiles] --> resample, pack, augment ... --> [kept blocks of rows] --> rows(start, stop)

The kept tiles are those that two neighboring blocks share; libvips alone would forget them between two requests. The
kept blocks make the cost independent of how few rows are requested at a time. Both are bounded.

Most slide pipelines need not run: the parts of the slide that their rows are made of are decoded straight from the
file on all processors, in half the time (see `pipeline`).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import partial
from threading import Lock
from typing import Any, Literal

import numpy as np
import pyvips
import torch
from numpy.typing import NDArray
from torch import Tensor

from wsidata.errors import SlideError, UnreadableImageError
from wsidata.formats.vips import failure_behind, naming_errors, pixels_of
from wsidata.slides.resample import ReadRegion, shrunk_to
from wsidata.staging.copying import StageWarning
from wsidata.transforms.base import TransformError
from wsidata.transforms.to_tensor import DType, to_tensor
from wsidata.utils.cache import BlockCache
from wsidata.utils.rectangle import Rectangle
from wsidata.utils.same_file import FileWatch

BLOCK_PX = 128
"""Rows (or columns) of a block, unless these are too many bytes."""

BLOCK_BYTES = 64 * 1024**2
"""Approximate limit of a block, unless 16 rows are larger."""

MIN_BLOCK_PX = 16

KEPT_BLOCK_BYTES = 128 * 1024**2
"""Blocks of rows kept for each image."""

_FORMATS: dict[str, np.dtype[Any]] = {
    "uchar": np.dtype(np.uint8),
    "ushort": np.dtype(np.uint16),
    "float": np.dtype(np.float32),
    "double": np.dtype(np.float64),
}

Axis = Literal["rows", "columns"]


@dataclass(frozen=True)
class ReadableImage:
    """A pipeline, and a faster reader of its regions.

    Attributes:
        image: The pipeline; something else than a pyvips image if it ends in something without rows.
        read: Reads its regions without running it; None: through the pipeline.
        watch: Tells whether the file that alone its pixels depend on is the same; None: they may depend on more.
    """

    image: Any
    read: ReadRegion | None = None
    watch: FileWatch | None = None

    def whole(self) -> Any:
        """The whole image: pixels, or the pipeline that makes them."""
        return self.image if self.read is None else self.read(Rectangle(0, 0, self.image.width, self.image.height))

    def pixels(self, region: Rectangle) -> NDArray[Any]:
        """A region: (height, width, C), memory of its own."""
        if self.read is not None:
            return self.read(region)
        return pixels_of(self.image.crop(region.x, region.y, region.width, region.height))


class LazyImage:
    """An image whose rows are decoded on request.

    May be read by several threads at a time, and pickled: pixels and open files stay behind, and the pipeline is built
    again on first use.

    Args:
        source: The pipeline: a pyvips image, or a function that builds it (or a `ReadableImage`). To be pickled it must
            be a picklable function that builds the same image each time.
        name: Name in error messages.
        dtype: What uint8 pixels become: "uint8" leaves them, "float" divides them by 255, and 16-bit ones by 65535.
            Floats stay floats.
        built: What `source` builds, where it is there already.

    Raises:
        TransformError: if the pipeline ends in no image of 8-bit or float pixels, or of 16-bit ones to become floats.

    Example:
        >>> image = Slide("tumor_001.tif").lazy(mpp=0.5)
        >>> image.shape
        (3, 88000, 47000)
        >>> image.rows(0, 128).shape
        torch.Size([3, 128, 47000])
    """

    def __init__(
        self,
        source: pyvips.Image | Callable[[], Any],
        *,
        name: str = "image",
        dtype: DType = "uint8",
        built: ReadableImage | None = None,
    ) -> None:
        self.name = name
        self._source = source
        self._as: DType = dtype
        self._lock = Lock()
        self._blocks = BlockCache(KEPT_BLOCK_BYTES)
        self._built: ReadableImage | None = None
        self._latest = 0
        self._shape: tuple[int, int, int] | None = None
        if built is not None:
            self._check(built.image)
            self._built = built
        image = self._readable().image
        self._shape = image.bands, image.height, image.width
        self._format = _FORMATS[image.format]

    @property
    def source(self) -> pyvips.Image | Callable[[], Any]:
        """The pipeline, or what builds it."""
        return self._source

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        assert self._shape is not None
        return self._shape

    @property
    def dtype(self) -> torch.dtype:
        """`torch.uint8`, or `torch.float32`."""
        return torch.uint8 if self._format == np.uint8 and self._as == "uint8" else torch.float32

    @property
    def pixel_version(self) -> Hashable | None:
        """Facts of the slide's file, the same as long as it is: then all rows are the same whenever they are read.

        None where pixels may depend on more, such as functions of the user's, or the file is not known to be at rest.
        """
        watch = self._readable().watch
        return None if watch is None else watch.version

    def rows(self, start: int, stop: int) -> Tensor:
        """Decode rows `start` to `stop - 1`.

        Returns:
            (C, stop - start, W) of type `dtype`, a view of channels-last memory of its own.

        Raises:
            IndexError: if the image has no such rows.
            UnreadableImageError: naming the slide, if they cannot be decoded. A second call tries again.
        """
        return self._strip("rows", start, stop)

    def columns(self, start: int, stop: int) -> Tensor:
        """Decode columns `start` to `stop - 1`: (C, H, stop - start); otherwise as `rows`."""
        return self._strip("columns", start, stop)

    def thumbnail(self, max_side_px: int = 512) -> Tensor:
        """The whole image, its longer side `max_side_px` or less. Decodes all of it, part by part."""
        with naming_errors(self.name):
            return to_tensor(shrunk_to(self._readable().image, max_side_px), self._as)

    def close(self) -> None:
        """Drop all pixels and close the file; the next request opens it again."""
        with self._lock:
            self._built = None
        self._blocks.clear()

    def __getstate__(self) -> dict[str, Any]:
        if isinstance(self._source, pyvips.Image):
            raise TypeError(
                f"{self!r} was made of a pyvips image, which cannot be pickled. Make it with Slide.lazy(...), or pass "
                "LazyImage a function, defined at the top of a module, that builds the pipeline."
            )
        kept = {"name", "_source", "_as", "_shape", "_format"}
        return {name: value for name, value in self.__dict__.items() if name in kept}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock, self._blocks, self._built, self._latest = Lock(), BlockCache(KEPT_BLOCK_BYTES), None, 0

    def __repr__(self) -> str:
        return f"LazyImage('{self.name}', shape={self._shape})"

    def _strip(self, axis: Axis, start: int, stop: int) -> Tensor:
        channels, height, width = self.shape
        length = height if axis == "rows" else width
        if not 0 <= start < stop <= length:
            raise IndexError(f"{axis} {start}..{stop - 1} of '{self.name}' do not exist: it has {length} {axis}.")
        step = self._block_px(axis)
        if stop - start >= step and self._readable().read is not None:
            return to_tensor(self._block(axis, start, stop - start), self._as)
        size = (stop - start, width) if axis == "rows" else (height, stop - start)
        out = np.empty((*size, channels), dtype=self._format)
        firsts = range(start // step * step, stop, step)
        # Upwards, the uppermost block is made last, while the tiles it shares with the next request are still kept.
        upwards, self._latest = start < self._latest, start
        for first in reversed(firsts) if upwards else firsts:
            make = partial(self._block, axis, first, min(step, length - first))
            block = self._blocks.get((axis, first), make)
            low, high = max(start, first), min(stop, first + step)
            part = slice(low - first, high - first)
            to = slice(low - start, high - start)
            if axis == "rows":
                out[to] = block[part]
            else:
                out[:, to] = block[:, part]
        return to_tensor(out, self._as)

    def _block_px(self, axis: Axis) -> int:
        """Rows of a block, or columns."""
        channels, height, width = self.shape
        line_bytes = (width if axis == "rows" else height) * channels * self._format.itemsize
        return min(BLOCK_PX, max(MIN_BLOCK_PX, BLOCK_BYTES // line_bytes))

    def _block(self, axis: Axis, first: int, count: int) -> NDArray[Any]:
        """Decode some rows or columns: (rows, columns, C)."""
        readable = self._readable()
        _, height, width = self.shape
        region = Rectangle(0, first, width, count) if axis == "rows" else Rectangle(first, 0, count, height)
        pixels: NDArray[Any] | None = None
        problem: Exception | None = None
        try:
            pixels = readable.pixels(region)
        except (SlideError, pyvips.Error) as error:
            problem = error
        problem = failure_behind(readable.image) or problem
        if problem is not None:
            self.close()  # kept tiles may hold the black that libvips shows for unreadable ones
            if self._leaves_stage(problem):
                return self._block(axis, first, count)
            detail = " ".join(str(problem).split())
            remedy = "" if isinstance(problem, SlideError) else ". Copy the file again from its source."
            raise UnreadableImageError(
                f"{axis} {first}..{first + count - 1} of '{self.name}' could not be decoded: {detail}{remedy}"
            ) from problem
        assert pixels is not None
        return pixels

    def _leaves_stage(self, problem: Exception) -> bool:
        """Whether the file itself is read from now on, as its copy on a local disk failed."""
        without_stage = getattr(self._source, "without_stage", None)
        source = None if without_stage is None else without_stage()
        if source is None:
            return False
        self._source = source
        warnings.warn(
            f"rows of '{self.name}' could not be read from its copy ({problem}): they are read from the source. Check "
            "the disk of stage_dir=.",
            StageWarning,
            stacklevel=3,
        )
        return True

    def _readable(self) -> ReadableImage:
        with self._lock:
            if self._built is None:
                source = self._source
                made = source if isinstance(source, pyvips.Image) else source()
                readable = made if isinstance(made, ReadableImage) else ReadableImage(made)
                self._check(readable.image)
                self._built = readable
            return self._built

    def _check(self, image: Any) -> None:
        if not isinstance(image, pyvips.Image):
            raise TransformError(
                f"the pipeline of '{self.name}' ends in a {type(image).__name__}. Rows can be read only from a pyvips "
                "image: leave out the step that makes an array or a tensor (ToTensor)."
            )
        if image.format not in _FORMATS or (image.format == "ushort" and self._as != "float"):
            raise TransformError(
                f"the pipeline of '{self.name}' ends in '{image.format}' pixels. Make them 8-bit (scale_to_8bit= when "
                "the slide is opened), or floats in 0..1; dtype='float' divides 16-bit ones by 65535."
            )
        if self._shape is not None and self._shape != (image.bands, image.height, image.width):
            raise UnreadableImageError(
                f"'{self.name}' had the shape {self._shape} and is now {(image.bands, image.height, image.width)}. "
                "Was the file replaced meanwhile? Read it again."
            )


def as_tensor(image: Tensor | LazyImage, max_side_px: int = 1024) -> Tensor:
    """An image to look at: a tensor as it is, a lazy image as a thumbnail."""
    return image.thumbnail(max_side_px) if isinstance(image, LazyImage) else image
