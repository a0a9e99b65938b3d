"""A dark spot on a slide is found at its level-0 coordinates, however the network reads the slide."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from slidestream.heatmaps.read import as_rgb, open_image
from slidestream.trained import Trained
from streammodels import StreamingClassifier, hottest_places, place
from wsidata import ImageFolderDataModule, WSIDataModule
from wsidata.datamodules.geometry import GeometryError
from wsidata.synthetic.slides import write_pixels
from wsidata.transforms import Compose, CropOrPad, RandomHorizontalFlip

STRIDE = 8
SPOT = (1040, 336)  # x and y of its middle, in pixels of level 0
SIDE = 48


def darkness() -> StreamingClassifier:
    """A network whose map of class 1 is the darkness of blocks of 8 x 8 pixels."""
    convolution = nn.Conv2d(3, 1, STRIDE, STRIDE)
    head = nn.Linear(1, 2)
    with torch.no_grad():
        convolution.weight.fill_(-1 / (3 * STRIDE**2))
        convolution.bias.fill_(1.0)
        head.weight.copy_(torch.tensor([[-1.0], [1.0]]))
        head.bias.zero_()
    return StreamingClassifier(nn.Sequential(convolution, nn.AdaptiveAvgPool2d(1)), head, tile_size=64).eval()


def pixels_with_a_spot() -> NDArray[np.uint8]:
    """Two pieces of pink tissue on glass, with a black square in the second."""
    pixels = np.full((701, 1403, 3), 240, dtype=np.uint8)
    for top, left, height, width in ((420, 100, 200, 300), (180, 800, 320, 420)):
        pixels[top : top + height, left : left + width] = (220, 150, 200)
    half = SIDE // 2
    pixels[SPOT[1] - half : SPOT[1] + half, SPOT[0] - half : SPOT[0] + half] = 0
    return pixels


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("slides") / "spot.tif"
    return write_pixels(path, pixels_with_a_spot(), mpp=0.5, tile=64, compression="deflate")


def trained(kind: Any, path: Path, **options: Any) -> Trained:
    """The network, as if trained with a data module of these options."""
    table = pd.DataFrame({"image": [path.name], "class": ["a"]})
    module = kind(table, path.parent, class_names=["a", "b"], val_fraction=0.0, leaks="off", **options)
    return Trained(darkness(), ("a", "b"), module.state_dict(), Path("best.ckpt"))


READINGS: list[dict[str, Any]] = [
    {"mpp": 1.0},
    {"mpp": 0.8},
    {"level": 1},
    {"max_side": 500},
    {"mpp": 1.0, "crop": "tissue"},
    {"mpp": 1.0, "crop": "pack"},
    {"mpp": 0.7, "crop": "pack", "image_size": (250, 290)},  # cut
    {"mpp": 1.0, "image_size": (500, 900)},  # padded
    {"mpp": 1.0, "crop": "tissue", "image_size": (901, 530)},  # padded and cut
]


@pytest.mark.parametrize("reading", READINGS, ids=str)
def test_spot_is_where_it_is(slide: Path, reading: dict[str, Any]) -> None:
    model = trained(WSIDataModule, slide, **reading)
    with open_image(model, slide) as opened, torch.no_grad():
        assert opened.placement is not None
        network: Any = model.model
        placed = place(network.class_activation_map(opened.image, 1), opened.placement)
        (hottest,) = hottest_places(placed, 1, 1)
        crop = opened.crop(*SPOT, 9)
    assert placed.size_lv0 == (1403, 701)
    assert placed.mpp == pytest.approx((0.5, 0.5))
    down = opened.placement.downsample[0]
    hot = placed.values > 0.6
    y, x = (np.argwhere(hot).mean(axis=0) + 0.5) * placed.cell_lv0[::-1]
    assert (
        np.abs(np.array([x, y]) - SPOT).max() <= STRIDE * down / 2
    )  # blocks that the spot covers in part are not counted
    assert np.abs(np.array([hottest.x_lv0, hottest.y_lv0]) - SPOT).max() <= SIDE / 2 + STRIDE * down / 4
    assert crop.shape == (9, 9, 3)
    assert crop.max() < 60  # the spot
    assert opened.picture.shape == (701, 1403, 3)


def test_what_is_cropped_away_has_no_value(slide: Path) -> None:
    model = trained(WSIDataModule, slide, mpp=1.0, crop="pack")
    with open_image(model, slide) as opened, torch.no_grad():
        network: Any = model.model
        placed = place(network.class_activation_map(opened.image, 1), opened.placement)
    cell_x, cell_y = placed.cell_lv0
    assert np.isnan(placed.values[: int(120 / cell_y)]).all()
    assert np.isfinite(placed.values[int(300 / cell_y), int(1000 / cell_x)])


def test_a_mirrored_image_is_not_laid_over_the_slide(slide: Path) -> None:
    """A transform that is made again from its description cannot mirror; one that is passed can."""
    flip = Compose([RandomHorizontalFlip(p=1.0)])
    model = trained(WSIDataModule, slide, mpp=1.0)
    with open_image(model, slide, allow_changed=["eval_transform"], eval_transform=flip) as opened:
        assert opened.placement is None
        assert opened.picture.shape[:2] == opened.image.shape[1:]
    crop = Compose([CropOrPad(64)])
    with open_image(model, slide, allow_changed=["eval_transform"], eval_transform=crop) as opened:
        assert opened.placement is not None


@pytest.mark.parametrize("size", [(350, 420), 224], ids=str)
def test_spot_of_a_photo_is_where_it_is(tmp_path: Path, size: Any) -> None:
    path = tmp_path / "spot.png"
    Image.fromarray(pixels_with_a_spot()[:, 600:1300]).save(path)
    model = trained(ImageFolderDataModule, path, label_column="class", image_size=size, normalize=None)
    with open_image(model, path) as opened, torch.no_grad():
        network: Any = model.model
        assert opened.placement is not None
        placed = place(network.class_activation_map(opened.image, 1), opened.placement)
        crop = opened.crop(SPOT[0] - 600, SPOT[1], 5)
    assert placed.size_lv0 == (700, 701)
    y, x = (np.argwhere(placed.values > 0.7).mean(axis=0) + 0.5) * placed.cell_lv0[::-1]
    limit = STRIDE * opened.placement.downsample[0] / 4 + 3
    assert np.abs(np.array([x, y]) - (SPOT[0] - 600, SPOT[1])).max() <= limit
    assert crop.max() < 60


def test_other_resolution_than_in_training_is_refused(slide: Path) -> None:
    with (
        pytest.raises(GeometryError, match=r"mpp=1\.0, and here they are read with mpp=2\.0"),
        open_image(trained(WSIDataModule, slide, mpp=1.0), slide, mpp=2.0),
    ):
        pass
    with open_image(trained(WSIDataModule, slide, mpp=1.0), slide, mpp=2.0, allow_changed=["resolution"]) as opened:
        assert opened.image.shape == (3, 175, 351)


def test_network_without_memory_reads_as_it_is_told(slide: Path) -> None:
    with open_image(Trained(darkness(), ("a", "b"), None, Path("x.ckpt")), slide, level=1) as opened:
        assert opened.image.shape == (3, 351, 702) or opened.image.shape == (3, 350, 701)


def test_channels_are_shown_in_gray() -> None:
    shown = as_rgb(np.array([[[0, 7], [50, 9]]], dtype=np.uint16))
    assert shown.tolist() == [[[0, 0, 0], [255, 255, 255]]]
    assert as_rgb(np.array([[[0.5, 0.0, 1.0]]], dtype=np.float32)).tolist() == [[[128, 0, 255]]]
