"""First frames of GIFs, decoded by Pillow.

libvips shows a damaged GIF without an error, most of its pixels wrong. Pillow raises.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL.GifImagePlugin import GifImageFile

from wsidata.errors import SlideError, UnreadableImageError
from wsidata.formats.limits import check_limit


def gif_size(path: Path) -> tuple[int, int]:
    """(height, width) of the first frame of a GIF in pixels.

    Raises:
        UnreadableImageError: if it breaks off in its header.
    """
    with _opened(path) as gif:
        return gif.height, gif.width


def read_gif(path: Path) -> NDArray[np.uint8]:
    """Pixels of the first frame, (height, width, 4), RGB and straight alpha.

    Raises:
        LimitExceededError: if it is too large for memory.
        UnreadableImageError: if Pillow reports any damage.
    """
    with _opened(path) as gif:
        what = f"{gif.width}x{gif.height} pixels of a GIF, which is decoded in memory"
        check_limit("max_decoded_bytes", 4 * gif.width * gif.height, path, what)
        return np.asarray(gif.convert("RGBA"))


def gif_frames(path: Path) -> int:
    """Number of frames of a GIF.

    Raises:
        UnreadableImageError: if Pillow reports any damage.
    """
    with _opened(path) as gif:
        return int(gif.n_frames)


@contextmanager
def _opened(path: Path) -> Iterator[GifImageFile]:
    """Context of an open GIF, in which Pillow's errors name the file."""
    try:
        with path.open("rb") as file:
            yield GifImageFile(file)  # Image.open would check the size by a limit of its own
    except SlideError:
        raise
    except Exception as error:  # of many kinds, for damaged files
        raise UnreadableImageError(
            f"'{path}' is a damaged GIF ({error}). Copy it again from its source; if it looks right in a viewer, save "
            "it anew from there."
        ) from error
