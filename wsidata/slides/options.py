"""Options for opening slides, shared by checks, statistics, leak checks and samples."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from wsidata.formats.channels import ImageChoice, PixelRequest
from wsidata.formats.metadata import checked_override
from wsidata.slides.tissue.crop import TissueCrop
from wsidata.slides.tissue.mask import check_sees_colors


@dataclass(frozen=True)
class SlideOptions:
    """Arguments of `Slide` that hold for all slides of a table, checked."""

    mpp_override: float | tuple[float, float] | None = None
    channels: Sequence[int | str] | int | str | None = None
    scale_to_8bit: tuple[float, float] | None = None
    apply_icc: bool = False
    series: int | None = None
    z: int | None = None
    t: int | None = None

    def __post_init__(self) -> None:
        if self.apply_icc and not self.has_colors:
            raise ValueError(
                "apply_icc=True is for RGB slides; chosen channels= have no colors. Leave one of them out."
            )
        _ = self.override, self.request  # validates

    @property
    def override(self) -> tuple[float, float] | None:
        """`mpp_override` as (x, y)."""
        return checked_override(self.mpp_override)

    @property
    def request(self) -> PixelRequest:
        """Channels and scaling, and the image and plane, as file formats take them."""
        checked = PixelRequest.checked(self.channels, self.scale_to_8bit)
        return replace(checked, of=ImageChoice(self.series, self.z, self.t))

    @property
    def has_colors(self) -> bool:
        """Whether pixels are red, green and blue, and not chosen channels."""
        return self.request.channels is None

    @property
    def reading(self) -> dict[str, Any]:
        """What of the pixels that are read is not the default, by argument, as plain values; without `mpp_override`."""
        found = {
            "channels": self.request.channels,
            "scale_to_8bit": self.request.scale_to_8bit,
            "apply_icc": self.apply_icc or None,
            **{name: getattr(self, name) for name in ("series", "z", "t")},
        }
        plain: dict[str, Any] = json.loads(json.dumps(found))  # tuples become lists, as they will when read back
        return {name: value for name, value in plain.items() if value is not None}

    def check_crop(self, crop: TissueCrop | None) -> None:
        """Check that a crop does not look for tissue by color in chosen channels."""
        if crop is not None and not self.has_colors:
            check_sees_colors(crop.method, f"crop={crop.kind!r}")


AS_STORED = SlideOptions()
"""RGB, with the files' own mpp and colors."""
