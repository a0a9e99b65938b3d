"""Tiles of slides, as grids and places, their features, and maps of their values."""

from typing import TYPE_CHECKING

from wsidata.utils.public_names import lazy_names

if TYPE_CHECKING:
    from wsidata.tiles.features import TileFeatures as TileFeatures
    from wsidata.tiles.features import read_features as read_features
    from wsidata.tiles.grid import TileGrid as TileGrid
    from wsidata.tiles.grid import Tiles as Tiles
    from wsidata.tiles.stitching import stitch as stitch

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        "features": ["TileFeatures", "read_features"],
        "grid": ["TileGrid", "Tiles"],
        "stitching": ["stitch"],
    },
)
