"""The tiles of a slide, planned from its file, with the tissue that an earlier run found."""

from __future__ import annotations

from wsidata.datamodules.survey import plain_crop_settings
from wsidata.slides.file_facts import FileFacts, fact_name
from wsidata.slides.options import SlideOptions
from wsidata.slides.slide import Slide
from wsidata.slides.tissue.crop import TissueCrop
from wsidata.slides.tissue.methods import TissueMethod
from wsidata.tiles.grid import TileGrid
from wsidata.tiles.plan import TilePlan
from wsidata.tiles.tissue import PackedTissue


def plan_tiles(path: str, options: SlideOptions, grid: TileGrid, method: TissueMethod | None) -> TilePlan:
    """The tiles of a slide on a grid.

    Args:
        path: Its file.
        options: How it is opened.
        grid: The grid.
        method: Finds the tissue; None where there is no rule about it.
    """
    with Slide.from_options(path, options) as slide:
        if method is None:
            return TilePlan(grid.of(slide))
        kept = FileFacts(path)
        settings = plain_crop_settings(TissueCrop("tissue", method=method))
        name = None if settings is None else fact_name("tissue", vars(options), settings)
        tissue = None if name is None else kept.get(PackedTissue, name)
        if tissue is None:
            tissue = PackedTissue.of(slide.tissue_mask(method))
            if name is not None and slide.is_one_file:
                kept.put(name, tissue)
                kept.save()
        return TilePlan(grid.of(slide, tissue.mask()), tissue)
