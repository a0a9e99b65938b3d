"""Whole-slide images, their levels, regions, lazy images, masks and tissue."""

from typing import TYPE_CHECKING

from wsidata.utils.public_names import lazy_names

if TYPE_CHECKING:
    from wsidata.slides.artifacts.find import find_artifacts as find_artifacts
    from wsidata.slides.artifacts.without import TissueWithout as TissueWithout
    from wsidata.slides.exchange.ome_tiff import write_ome_tiff as write_ome_tiff
    from wsidata.slides.exchange.openslide_like import OpenSlideLike as OpenSlideLike
    from wsidata.slides.exchange.region_files import write_regions as write_regions
    from wsidata.slides.exchange.tissue_files import TissueFiles as TissueFiles
    from wsidata.slides.info import SlideInfo as SlideInfo
    from wsidata.slides.lazy_image import LazyImage as LazyImage
    from wsidata.slides.slide import Slide as Slide
    from wsidata.slides.slide import slide_info as slide_info
    from wsidata.slides.tissue.crop import TissueCrop as TissueCrop
    from wsidata.slides.tissue.mask import TissueMask as TissueMask
    from wsidata.slides.tissue.methods import find_tissue as find_tissue
    from wsidata.slides.tissue.methods import otsu_density as otsu_density
    from wsidata.slides.tissue.methods import otsu_saturation as otsu_saturation
    from wsidata.slides.tissue.packing import Packing as Packing

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        "exchange.openslide_like": ["OpenSlideLike"],
        "exchange.ome_tiff": ["write_ome_tiff"],
        "exchange.region_files": ["write_regions"],
        "info": ["SlideInfo"],
        "lazy_image": ["LazyImage"],
        "slide": ["Slide", "slide_info"],
        "artifacts.find": ["find_artifacts"],
        "artifacts.without": ["TissueWithout"],
        "exchange.tissue_files": ["TissueFiles"],
        "tissue.crop": ["TissueCrop"],
        "tissue.mask": ["TissueMask"],
        "tissue.methods": ["find_tissue", "otsu_density", "otsu_saturation"],
        "tissue.packing": ["Packing"],
    },
)
