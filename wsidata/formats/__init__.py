"""Readers of slide and image file formats."""

from typing import TYPE_CHECKING

from wsidata.utils.public_names import lazy_names

if TYPE_CHECKING:
    from wsidata.formats.levels import Level as Level

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        "levels": ["Level"],
    },
)
