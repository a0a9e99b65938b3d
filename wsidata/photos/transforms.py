"""What is done to photos unless one asks for something else: unlike tissue, a photo has a top and a bottom."""

from __future__ import annotations

from wsidata.transforms import Compose, CropOrPad, RandomHorizontalFlip, Transform


def photo_train_transform(image_size: tuple[int, int] | None) -> Transform:
    """A crop of `image_size` anywhere in the photo (left out if None), and left and right mirrored every other time.

    Photos that are smaller are padded in white.
    """
    crop = [] if image_size is None else [CropOrPad(image_size, position="random")]
    return Compose([*crop, RandomHorizontalFlip()])


def photo_eval_transform(image_size: tuple[int, int] | None) -> Transform:
    """The centre of the photo, of `image_size`, or all of it if that is None. Smaller photos are padded in white."""
    return Compose([] if image_size is None else [CropOrPad(image_size)])


def auto_resize_px(image_size: tuple[int, int] | None) -> int | None:
    """Shorter side of which a crop of `image_size` shows most: 8/7 of it, as 256 for 224. None for None."""
    return None if image_size is None else -(-8 * max(image_size) // 7)
