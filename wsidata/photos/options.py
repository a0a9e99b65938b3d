"""What arguments of the photo data module mean, and which of them do not go together."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from wsidata.photos.decoded_cache import DecodedCache
from wsidata.photos.transforms import auto_resize_px
from wsidata.tables import TableError
from wsidata.tensors import DType

Normalize = Literal["stats", "imagenet"]

CACHE_BYTES = 4 * 1000**3
"""What `cache="memory"` keeps for each loader."""


def length_of_side(
    resize_px: int | Literal["auto"] | None, image_size: tuple[int, int] | None, crops: bool
) -> int | None:
    """The length photos' shorter side is brought to.

    Raises:
        ValueError: if it is no length, or each crop would be padded.
    """
    if resize_px == "auto":
        return auto_resize_px(image_size)
    if resize_px is not None and (not isinstance(resize_px, int) or resize_px < 1):
        raise ValueError(f"resize_px={resize_px!r} is neither a number of pixels, nor 'auto', nor None.")
    if resize_px is not None and image_size is not None and crops and resize_px < min(image_size):
        raise ValueError(
            f"resize_px={resize_px} makes photos smaller than image_size={image_size}: all would be padded. Pass at "
            f"least {min(image_size)}, or resize_px='auto'."
        )
    return resize_px


def check_one_size(sizes: Mapping[str, tuple[int, int]]) -> None:
    """Refuse batches of photos that differ in size.

    Raises:
        TableError: naming two.
    """
    first, *others = sizes.items()
    for name, size in others:
        if size != first[1]:
            raise TableError(
                f"photos differ in size ('{first[0]}' is {first[1][0]} x {first[1][1]} px, '{name}' {size[0]} x "
                f"{size[1]}), and without image_size= they keep it. Pass image_size= (crops or pads), or batch_size=1."
            )


def pixel_type(dtype: Literal["uint8", "float"] | None, normalize: str | None) -> DType:
    """What pixels become.

    Raises:
        ValueError: for an unknown choice, or bytes that are to be normalised.
    """
    if normalize not in (None, "stats", "imagenet"):
        raise ValueError(f"normalize={normalize!r} is neither 'stats' nor 'imagenet' nor None.")
    if dtype not in (None, "uint8", "float"):
        raise ValueError(f"dtype={dtype!r} is neither 'uint8' nor 'float'.")
    if dtype == "uint8" and normalize is not None:
        raise ValueError(f"normalize={normalize!r} gives floats. Leave out dtype='uint8'.")
    return dtype or ("uint8" if normalize is None else "float")


def decoded_cache(cache: int | str | Path | None, num_workers: int) -> DecodedCache | None:
    """Where decoded photos are kept; the memory is divided among the workers of a loader.

    Raises:
        ValueError: for no memory.
    """
    if cache is None:
        return None
    if isinstance(cache, int) and cache < 1:
        raise ValueError(f"cache={cache} is neither a number of bytes, nor 'memory', nor a folder, nor None.")
    if cache == "memory":
        cache = CACHE_BYTES
    return DecodedCache(max(1, cache // max(1, num_workers)) if isinstance(cache, int) else cache)
