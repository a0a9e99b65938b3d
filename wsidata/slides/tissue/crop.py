"""Crops of slides to the bounding box of their tissue, or to its pieces packed on a small canvas.

A crop is planned once per slide, from a coarse mask, for the resolution that is read; the plan is a `Packing` (one
piece for a bounding box), which is small, can be pickled, and maps points between slide and canvas.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from wsidata.errors import NoTissueError
from wsidata.formats.resolution import Resolution
from wsidata.slides.protocol import SlideLike
from wsidata.slides.tissue.mask import TissueMask
from wsidata.slides.tissue.methods import TissueMethod, find_tissue
from wsidata.slides.tissue.packing import MARGIN_PX, Packing, crop_to_tissue, pack_tissue, whole
from wsidata.utils.messages import check_choice

CropKind = Literal["tissue", "pack"]


@dataclass(frozen=True)
class TissueCrop:
    """Crop of slides to their tissue. `crop="tissue"` and `crop="pack"` stand for the defaults.

    Attributes:
        kind: "tissue" keeps the bounding box of all tissue; "pack" places the pieces close together on white.
        margin_px: Margin kept around tissue, in pixels of the resolution that is read.
        mask_mpp: um per pixel of the mask. None: see `Slide.tissue_mask`.
        method: Tissue detection. For loader workers it must be picklable: a function defined at the top of a module, or
            a `functools.partial` of one.
        on_empty: What to do with a slide without tissue: "raise" an error, or read it "whole".
    """

    kind: CropKind
    margin_px: int = MARGIN_PX
    mask_mpp: float | None = None
    method: TissueMethod = find_tissue
    on_empty: Literal["raise", "whole"] = "raise"

    def __post_init__(self) -> None:
        check_choice("crop", self.kind, ("tissue", "pack"), advice="Leave it out for whole slides.")
        check_choice("on_empty", self.on_empty, ("raise", "whole"))

    def plan(self, slide: SlideLike, resolution: Resolution) -> Packing:
        """Detect the tissue of a slide, and place what is read of it.

        Args:
            slide: An open slide.
            resolution: The resolution it is read at.

        Raises:
            NoTissueError: if there is no tissue, and `on_empty` is "raise".
        """
        mask: TissueMask = slide.tissue_mask(self.method, **({} if self.mask_mpp is None else {"mpp": self.mask_mpp}))
        size, downsample = slide.size_at(**resolution), slide.downsample_at(**resolution)
        if mask.is_empty:
            if self.on_empty == "whole":
                return whole(*size, downsample)
            method = getattr(self.method, "__name__", self.method)
            raise NoTissueError(
                f"slide '{slide.path.name}' has no tissue that {method} finds at {mask.downsample_x:.4g} level-0 px "
                "per pixel. Look at slide.thumbnail(); take the slide out of the table, have such slides read whole "
                "with TissueCrop(..., on_empty='whole'), or pass a method of your own."
            )
        return (crop_to_tissue if self.kind == "tissue" else pack_tissue)(mask, size, downsample, self.margin_px)


def as_crop(crop: CropKind | TissueCrop | None) -> TissueCrop | None:
    """A `TissueCrop` from its short form."""
    return crop if crop is None or isinstance(crop, TissueCrop) else TissueCrop(crop)
