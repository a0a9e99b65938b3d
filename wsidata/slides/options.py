"""How slides are opened is said once: check, statistics, leak check and samples then see one and the same picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wsidata.slides.slide import Slide
from wsidata.slides.slide_file import check_arguments
from wsidata.slides.tissue.crop import TissueCrop
from wsidata.slides.tissue.mask import check_sees_colours


@dataclass(frozen=True)
class SlideOptions:
    """Arguments of `Slide`, for all slides of a table.

    Attributes:
        mpp_override: Spacing of level 0 in um per pixel to believe instead of the files', one number or (x, y).
        channels: Numbers or names of the channels to read. None: RGB.
        scale_to_8bit: (low, high), the stored values that become 0 and 255, for samples of more than 8 bits.
        apply_icc: Turn the scanner's colours into sRGB, where a file has a profile.

    Raises:
        ValueError: if they make no sense.
    """

    mpp_override: float | tuple[float, float] | None = None
    channels: Sequence[int | str] | int | str | None = None
    scale_to_8bit: tuple[float, float] | None = None
    apply_icc: bool = False

    def __post_init__(self) -> None:
        check_arguments(**self._arguments)

    def open(self, path: str | Path) -> Slide:
        """Open a slide."""
        return Slide(path, **self._arguments)

    def check_crop(self, crop: TissueCrop | None) -> None:
        """Refuse to look for tissue by colour where there are no colours.

        Raises:
            ValueError: saying what to pass.
        """
        if crop is not None and self.channels is not None:
            check_sees_colours(crop.method, f"crop={crop.kind!r}")

    @property
    def _arguments(self) -> dict[str, Any]:
        return {
            "mpp_override": self.mpp_override,
            "channels": self.channels,
            "scale_to_8bit": self.scale_to_8bit,
            "apply_icc": self.apply_icc,
        }


AS_STORED = SlideOptions()
"""RGB, the files' own spacing and colours."""
