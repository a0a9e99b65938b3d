"""Map-style datasets of slides and photos, their loader and sampler."""

from typing import TYPE_CHECKING

from wsidata.utils.public_names import lazy_names

if TYPE_CHECKING:
    from wsidata.datasets.photos import PhotoDataset as PhotoDataset
    from wsidata.datasets.slides import SlideDataset as SlideDataset

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        "photos": ["PhotoDataset"],
        "slides": ["SlideDataset"],
    },
)
