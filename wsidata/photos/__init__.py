"""Photo decoding, caching and resizing, and a survey of photo headers."""

from wsidata.photos.cache import DecodedCache as DecodedCache
from wsidata.photos.read import photo_size as photo_size
from wsidata.photos.read import read_photo as read_photo
from wsidata.photos.survey import PhotoSurvey as PhotoSurvey
