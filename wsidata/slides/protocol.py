"""The interface of an open slide that tissue crops and pipelines need, as a protocol below `Slide`."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Protocol, Self

import pyvips

from wsidata.remote.address import SlidePath
from wsidata.utils.rectangle import PartReader


class SlideLike(Protocol):
    """An open slide, such as `wsidata.slides.slide.Slide`."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    @property
    def path(self) -> SlidePath:
        """The file, or its address."""

    @property
    def background(self) -> int:
        """Pixel value outside the slide."""

    def image(self, *args: Any, **resolution: Any) -> pyvips.Image:
        """The whole slide at one resolution, as a lazy image."""

    def regions(self, rim_px: int = 0, **resolution: Any) -> PartReader | None:
        """Reads regions of `image` at a resolution."""

    def tissue_mask(self, *args: Any, **resolution: Any) -> Any:
        """The `TissueMask` of the slide (untyped, so that `tissue` can import this)."""

    def size_at(self, **resolution: Any) -> tuple[int, int]:
        """(width, height) of `image` at a resolution."""

    def downsample_at(self, **resolution: Any) -> tuple[float, float]:
        """Level-0 pixels per pixel of `image` at a resolution, (x, y)."""
