"""The compared readers of photos to (3, 224, 224) uint8, and the compared channel statistics.

Every reader resizes the shorter side to 256 pixels and crops the center, but for the limits, which only decode. Imports
are local, so that a missing package does not stop the other readers.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

SHORT_SIDE_PX, CROP_PX = 256, 224
Sample = Callable[[int], Any]


def wsidata(paths: Sequence[Path]) -> Any:
    """Validation dataset of `ImageFolderDataModule`."""
    import pandas as pd

    from wsidata.datasets.photos import PhotoDataset
    from wsidata.transforms.compose import default_eval_transform

    table = pd.DataFrame({"image_id": [path.stem for path in paths], "path": [str(path) for path in paths], "label": 0})
    return PhotoDataset(table, default_eval_transform((CROP_PX, CROP_PX)), resize_px=SHORT_SIDE_PX)


def image_folder(paths: Sequence[Path]) -> Any:
    """torchvision as in its tutorials: ImageFolder, which opens photos with Pillow."""
    from torchvision import transforms
    from torchvision.datasets import ImageFolder

    steps = [transforms.Resize(SHORT_SIDE_PX), transforms.CenterCrop(CROP_PX), transforms.PILToTensor()]
    return ImageFolder(str(paths[0].parents[1]), transforms.Compose(steps))


class Decoded:
    """A dataset of one function of a path."""

    def __init__(self, paths: Sequence[Path], read: Callable[[Path], Any]) -> None:
        self.paths, self.read = list(paths), read

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Any:
        return self.read(self.paths[index]), 0


def decode_image(path: Path) -> Any:
    """torchvision's own decoder (libjpeg-turbo), and its transforms v2."""
    from torchvision.io import ImageReadMode
    from torchvision.io import decode_image as decode
    from torchvision.transforms import v2

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is deprecated
        pixels = decode(str(path), mode=ImageReadMode.RGB, apply_exif_orientation=True)
    return v2.functional.center_crop(v2.functional.resize(pixels, [SHORT_SIDE_PX], antialias=True), [CROP_PX])


def pillow_draft(path: Path) -> Any:
    """Pillow, decoding at 1/2, 1/4 or 1/8 down to twice the requested size, as ours does."""
    import torch
    from PIL import Image, ImageOps

    with Image.open(path) as image:
        scale = SHORT_SIDE_PX / min(image.size)
        wanted = [round(side * scale) for side in image.size]
        image.draft("RGB", (2 * wanted[0], 2 * wanted[1]))
        image = ImageOps.exif_transpose(image.convert("RGB").resize(wanted, Image.Resampling.BILINEAR))
        left, top = ((side - CROP_PX) // 2 for side in image.size)
        pixels = np.array(image.crop((left, top, left + CROP_PX, top + CROP_PX)))
    return torch.from_numpy(pixels).permute(2, 0, 1)


def vips_thumbnail(path: Path) -> Any:
    """libvips' thumbnail, which also decodes at a reduced size."""
    import pyvips
    import torch

    header = pyvips.Image.new_from_file(str(path))
    wanted = {"width": SHORT_SIDE_PX, "height": 10**7}
    if header.width > header.height:
        wanted = {"width": 10**7, "height": SHORT_SIDE_PX}
    pixels = pyvips.Image.thumbnail(str(path), wanted["width"], height=wanted["height"]).numpy()
    top, left = ((side - CROP_PX) // 2 for side in pixels.shape[:2])
    return torch.from_numpy(pixels[top : top + CROP_PX, left : left + CROP_PX].copy()).permute(2, 0, 1)


def limit(path: Path, margin: int) -> Any:
    """libjpeg-turbo decoding alone, at the smallest of 1/8, 1/4, 1/2 that leaves `margin` times the requested size."""
    import simplejpeg

    data = path.read_bytes()
    height, width, *_ = simplejpeg.decode_jpeg_header(data)
    shrink = next((one for one in (8, 4, 2) if min(height, width) >= one * margin * SHORT_SIDE_PX), 1)
    return simplejpeg.decode_jpeg(data, min_height=-(-height // shrink), min_width=-(-width // shrink))


READERS: dict[str, Callable[[Sequence[Path]], Any]] = {
    "wsidata": wsidata,
    "ImageFolder, Pillow": image_folder,
    "torchvision decode_image, v2": partial(Decoded, read=decode_image),
    "Pillow draft": partial(Decoded, read=pillow_draft),
    "libvips thumbnail": partial(Decoded, read=vips_thumbnail),
    "limit, as small as wsidata decodes": partial(Decoded, read=partial(limit, margin=2)),
    "limit, as small as can be": partial(Decoded, read=partial(limit, margin=1)),
}
LIMITS = ("limit, as small as wsidata decodes", "limit, as small as can be")


def stats_of_notebook(paths: Sequence[Path]) -> Any:
    """The loop of a notebook: matplotlib, then torch's mean and std of each photo."""
    import matplotlib.pyplot as plt
    import torch

    mean, std = np.zeros(3), np.zeros(3)
    for path in paths:
        image = torch.Tensor(plt.imread(str(path)).copy()).permute((2, 0, 1))
        mean = np.add(mean, image.mean([1, 2]))
        std = np.add(std, image.std([1, 2]))
    return mean / len(paths) / 255, std / len(paths) / 255


def stats_of_wsidata(paths: Sequence[Path], how: str) -> Any:
    """`channel_stats`: of the stored pixels ("slide"), or of photos as they are read ("photo"); any reduction."""
    from wsidata.photos.read import read_photo
    from wsidata.stats.compute import channel_stats

    stats = channel_stats(paths, reduction="per_image", **({"read": read_photo} if how == "photo" else {}))
    return np.array(stats.mean), np.array(stats.std)


def stats_limit(paths: Sequence[Path]) -> Any:
    """libjpeg-turbo decoding alone, nothing summed."""
    import simplejpeg

    for path in paths:
        simplejpeg.decode_jpeg(path.read_bytes())


STATISTICS: dict[str, Callable[[Sequence[Path]], Any]] = {
    "channel_stats(paths)": partial(stats_of_wsidata, how="slide"),
    "channel_stats(paths, read=read_photo)": partial(stats_of_wsidata, how="photo"),
    "the notebook's loop": stats_of_notebook,
    "limit, decoding alone": stats_limit,
}
