"""Photo decoding, caching and resizing, and a survey of photo headers."""

from typing import TYPE_CHECKING

from wsidata.utils.public_names import lazy_names

if TYPE_CHECKING:
    from wsidata.photos.cache import DecodedCache as DecodedCache
    from wsidata.photos.read import photo_size as photo_size
    from wsidata.photos.read import read_photo as read_photo
    from wsidata.photos.survey import PhotoSurvey as PhotoSurvey

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        "cache": ["DecodedCache"],
        "read": ["photo_size", "read_photo"],
        "survey": ["PhotoSurvey"],
    },
)
