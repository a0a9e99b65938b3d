"""Facts about the tiles of one slide, under the names that TRIDENT, CLAM and LazySlide have for them."""

from __future__ import annotations

from typing import Any

from wsidata.slides.slide import Slide
from wsidata.tiles.grid import TileGrid, Tiles


def tile_facts(slide: Slide, grid: TileGrid, tiles: Tiles) -> dict[str, Any]:
    """What TRIDENT and CLAM say of a slide in the attributes of its tiles; pairs are (x, y).

    Args:
        slide: The slide.
        grid: How its tiles are read.
        tiles: Its tiles.

    Returns:
        `name`; `patch_size_level0`, width of a tile in pixels of level 0; `level0_width` and `level0_height`;
        `downsample`, level-0 pixels per pixel; and as far as the slide states them: `patch_level`, where a level is
        read without resampling; `mpp`, um per pixel that is read; `level0_magnification` and `target_magnification`.
    """
    plan = grid.resolution.plan(slide.levels, slide.magnification, name=slide.path.name)
    found: dict[str, Any] = {
        "name": slide.path.stem,
        "patch_size_level0": tiles.size_lv0[0],
        "level0_width": slide.width,
        "level0_height": slide.height,
        "downsample": [tiles.downsample_x, tiles.downsample_y],
    }
    if plan.is_identity:
        found["patch_level"] = plan.level
    if slide.mpp is not None:
        found["mpp"] = [slide.mpp[0] * tiles.downsample_x, slide.mpp[1] * tiles.downsample_y]
    if slide.magnification is not None:
        found["level0_magnification"] = slide.magnification
        found["target_magnification"] = round(slide.magnification / tiles.downsample_x, 6)
    return found
