"""What photos are compared by: see `fingerprints`. Decoded small, which of a large JPEG is a fraction of the work."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from wsidata.fingerprints import SIDE_PX
from wsidata.photos.decoding import read_photo


def photo_thumbnail(path: str) -> NDArray[np.float64]:
    """A photo, squashed to 32 x 32 grey pixels, (32, 32)."""
    small = read_photo(path, short_side_px=2 * SIDE_PX)
    return np.asarray(cv2.resize(small, (SIDE_PX, SIDE_PX), interpolation=cv2.INTER_AREA).mean(axis=2))
