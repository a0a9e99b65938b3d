"""An image as a trained network reads it, with its place on the slide and a picture to draw over."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from slidestream.trained import Trained
from streammodels import PlacedPiece, Placement
from wsidata import ImageFolderDataModule, LazyImage, Slide, WSIDataModule
from wsidata.datasets.photos import PhotoDataset
from wsidata.datasets.slides import SlideDataset
from wsidata.photos.read import photo_size
from wsidata.remote.address import ADDRESS
from wsidata.slides.tissue.packing import Packing, whole
from wsidata.transforms.base import TransformError

Pixels = NDArray[np.uint8]

_PICTURE_PX = 1600
_SWITCHED_OFF = ("crop", "image_size", "eval_transform")
"""Settings that are left out where `allow_changed` names them."""


@dataclass(frozen=True)
class OpenedImage:
    """An image for a network, while its file is open.

    Attributes:
        image: What the network takes: rows on request (slides), or (1, C, H, W) (photos).
        picture: The whole slide or photo at a size to look at, (height, width, 3).
        placement: Where `image` lies on it; None if a transform bends or turns it, and the picture is then of `image`.
        crop: From the middle (x, y) in pixels of level 0 and a side in pixels of `image` to (side, side, 3) pixels.
    """

    image: Tensor | LazyImage
    picture: Pixels
    placement: Placement | None
    crop: Callable[[float, float, int], Pixels]


@contextmanager
def open_image(
    trained: Trained, path: str | Path, *, allow_changed: Sequence[str] = (), **changed: Any
) -> Iterator[OpenedImage]:
    """Open a slide or photo as the images of the training run were read.

    Args:
        trained: The network.
        path: The file.
        allow_changed: Settings that may differ from those of training (see `wsidata.datamodules.geometry.Setting`);
            crop, image size and transform of evaluation are then left out.
        **changed: Arguments of the data module, such as `mpp_override=`, or `mpp=` for a checkpoint that does not
            remember how its images were read.

    Raises:
        GeometryError: if it would be read otherwise than in training.
        ValueError, OSError: if it cannot be read.
    """
    is_photo = trained.geometry.get("kind") == "photos"
    kind: Any = ImageFolderDataModule if is_photo else WSIDataModule
    left_out = {name: None for name in _SWITCHED_OFF if name in allow_changed and (name != "crop" or not is_photo)}
    options: dict[str, Any] = {**left_out, **changed, "num_workers": 0, **({} if is_photo else {"lazy": True})}
    if ADDRESS.fullmatch(str(path)):
        raise FileNotFoundError("it is an address, and heat maps are of files. Download it, and name the file")
    path = Path(path).absolute()
    if not path.exists():
        raise FileNotFoundError("there is no such file")
    if trained.geometry:
        remembered: Mapping[str, Any] = {"data": trained.memory}
        module = kind.from_checkpoint(remembered, [path], allow_changed=[*allow_changed, "cases"], **options)
    else:
        import pandas as pd

        table = pd.DataFrame({"image": [str(path)]})
        module = WSIDataModule(table, path.parent, label_column=None, predict_on="all", leaks="off", **options)
    module.setup("predict")
    dataset = module.datasets["predict"]
    if is_photo:
        yield _photo(dataset, path)
        return
    with dataset.open_slide(0) as slide:
        yield _slide(dataset, slide)


def _slide(dataset: SlideDataset, slide: Slide) -> OpenedImage:
    resolution = dict(dataset.resolution)
    down = slide.downsample_at(**resolution)
    width, height = slide.size_at(**resolution)
    packing = dataset.packing(0, slide) or whole(width, height, down)
    image: Any = dataset.image(0)
    placement = _placement(dataset, packing, (slide.width, slide.height), image.shape[1:])

    def crop(x_lv0: float, y_lv0: float, side: int) -> Pixels:
        left, top = (round(middle - side * one / 2) for middle, one in zip((x_lv0, y_lv0), down, strict=True))
        return as_rgb(slide.read_region(left, top, side, side, downsample=down))

    if placement is None:
        return OpenedImage(image, as_rgb(image.thumbnail(_PICTURE_PX).permute(1, 2, 0).numpy()), None, crop)
    picture = as_rgb(slide.numpy(max_side=_PICTURE_PX))
    return OpenedImage(image, picture, replace(placement, mpp=slide.mpp), crop)


def _photo(dataset: PhotoDataset, path: Path) -> OpenedImage:
    pixels = np.asarray(dataset.pixels(0))
    (height, width), (rows, columns) = photo_size(path), pixels.shape[:2]
    down = width / columns, height / rows
    image = dataset[0][None]
    placement = _placement(dataset, whole(columns, rows, down), (width, height), image.shape[2:])

    def crop(x_lv0: float, y_lv0: float, side: int) -> Pixels:
        padded = np.pad(pixels, [(side, side), (side, side), (0, 0)], constant_values=255)
        left, top = (round(middle / one + side / 2) for middle, one in zip((x_lv0, y_lv0), down, strict=True))
        part: Pixels = padded[max(0, top) :][:side, max(0, left) :][:, :side]
        return part

    if placement is None:
        return OpenedImage(image, as_rgb(dataset.image(0).permute(1, 2, 0).numpy()), None, crop)
    return OpenedImage(image, pixels, placement, crop)


def _placement(
    dataset: SlideDataset | PhotoDataset, packing: Packing, size_lv0: tuple[int, int], image_size: tuple[int, int]
) -> Placement | None:
    """Where the transformed image lies, if the transform shifts and scales at most; found by sending points through."""
    width, height = packing.width, packing.height
    points = np.array([[0, 0], [width, height], [width / 3, height / 5]], dtype=np.float64)
    try:
        sample = replace(dataset.untransformed(0), masks=(), points=points)
        moved = dataset.transform.run(sample, dataset.generator(0)).points
    except TransformError:
        return None
    if moved is None:
        return None
    start, scale = moved[0], (moved[1] - moved[0]) / (width, height)
    if (scale <= 0).any() or np.abs(start + points[2] * scale - moved[2]).max() > 1e-6 * max(width, height):
        return None
    down = np.array((packing.downsample_x, packing.downsample_y))
    limits, pieces = np.array(image_size[::-1], dtype=np.float64), []
    for one in packing.pieces:
        on_canvas = np.array((one.canvas_x, one.canvas_y), dtype=np.float64)
        first = np.maximum(on_canvas * scale + start, 0)
        beyond = np.minimum((on_canvas + np.array((one.width, one.height))) * scale + start, limits)
        if (beyond > first).all():
            in_slide = ((first - start) / scale - on_canvas + (one.x, one.y)) * down
            pieces.append(PlacedPiece(*first.tolist(), *(beyond - first).tolist(), *in_slide.tolist()))
    down_x, down_y = (down / scale).tolist()
    return Placement(size_lv0, tuple(pieces), (down_x, down_y))


def as_rgb(pixels: NDArray[Any]) -> Pixels:
    """Pixels to look at, (height, width, 3) uint8; of other channels than RGB the first, in gray."""
    if pixels.dtype != np.uint8:
        highest = float(pixels.max()) if pixels.dtype == np.uint16 else 1.0
        pixels = (pixels.astype(np.float32) / (highest or 1.0) * 255).clip(0, 255).round().astype(np.uint8)
    return pixels if pixels.shape[2] == 3 else np.repeat(pixels[..., :1], 3, axis=2)
