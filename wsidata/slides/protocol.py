"""What crops and pipelines need of an open slide, as a protocol, so that they lie below `Slide` and not beside it."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self

if TYPE_CHECKING:
    import pyvips

    from wsidata.slides.resample import ReadWindow
    from wsidata.slides.tissue.mask import TissueMask, TissueMethod


class OpenSlide(Protocol):
    """An open slide: see `wsidata.slides.slide.Slide`, which is one."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    @property
    def path(self) -> Path:
        """The file."""

    @property
    def background(self) -> int:
        """Pixel value outside the slide."""

    def image(self, *args: Any, **resolution: Any) -> pyvips.Image:
        """The whole slide at one resolution, as a lazy image."""

    def windows(self, rim_px: int = 0, **resolution: Any) -> ReadWindow | None:
        """Reads rectangles of `image` at a resolution."""

    def tissue_mask(self, method: TissueMethod = ..., **resolution: Any) -> TissueMask:
        """Which parts of the slide are tissue."""

    def size_at(self, **resolution: Any) -> tuple[int, int]:
        """(width, height) of `image` at a resolution."""

    def downsample_at(self, **resolution: Any) -> tuple[float, float]:
        """Level-0 pixels per pixel of `image` at a resolution, (x, y)."""
