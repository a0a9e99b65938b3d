"""Tiles of slides, as grids and places."""

from typing import TYPE_CHECKING

from wsidata.utils.public_names import lazy_names

if TYPE_CHECKING:
    from wsidata.tiles.grid import TileGrid as TileGrid
    from wsidata.tiles.grid import Tiles as Tiles

__getattr__, __dir__, __all__ = lazy_names(__name__, {"grid": ["TileGrid", "Tiles"]})
