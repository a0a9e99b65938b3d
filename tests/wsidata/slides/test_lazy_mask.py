import pickle

import albumentationsxl as A
import numpy as np
import pandas as pd
import pytest
import pyvips
import torch

from wsidata.datasets.slides import SlideDataset
from wsidata.errors import UnreadableImageError
from wsidata.slides.lazy_image import LazyImage
from wsidata.slides.lazy_mask import lazy_mask
from wsidata.slides.masks import MaskError, mask_classes
from wsidata.slides.slide import Slide
from wsidata.transforms.base import TransformError
from wsidata.transforms.compose import Compose, he_train_transform
from wsidata.transforms.geometry.affine import RandomAffine, RandomD4
from wsidata.transforms.geometry.crop import CropOrPad, RandomResizedCrop
from wsidata.transforms.geometry.elastic import Elastic

HEIGHT, WIDTH = 371, 530
TILES = {"tile": True, "tile_width": 64, "tile_height": 64, "compression": "deflate"}
CLASSES = mask_classes(3, [0, 7, 255])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A slide with a piece of tissue, and masks of three values: of its size, and five times as coarse."""
    folder, rng = tmp_path_factory.mktemp("lazy_masks"), np.random.default_rng(0)
    pixels = np.full((HEIGHT, WIDTH, 3), 245, np.uint8)
    pixels[60:300, 100:400] = rng.integers(0, 256, (240, 300, 3)) // 2 + np.array([100, 0, 100])
    pyvips.Image.new_from_array(pixels).tiffsave(str(folder / "slide.tif"), pyramid=True, **TILES)
    values = np.array([0, 7, 255], np.uint8)[rng.integers(0, 3, (HEIGHT, WIDTH))]
    pyvips.Image.new_from_array(values).tiffsave(str(folder / "fine.tif"), **TILES)
    coarse = np.ascontiguousarray(values[: -(-HEIGHT // 5), : -(-WIDTH // 5)])
    pyvips.Image.new_from_array(coarse).pngsave(str(folder / "coarse.png"))
    pyvips.Image.new_from_array(values // 2).pngsave(str(folder / "other_values.png"))
    pyvips.Image.black(WIDTH, WIDTH).pngsave(str(folder / "other_shape.png"))
    return folder


def dataset(folder, *, mask="fine.tif", resolution=None, transform=None, **options):
    table = pd.DataFrame({"image_id": ["s"], "path": [folder / "slide.tif"], "label": [0], "mask": [folder / mask]})
    transform = Compose([]) if transform is None else transform
    return SlideDataset(table, resolution or {"level": 0}, transform, mask_classes=CLASSES, **options)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"resolution": {"downsample": 2.3}, "mask": "coarse.png"},
        {"resolution": {"level": 1}, "crop": "pack", "transform": RandomD4()},
        {"crop": "tissue", "transform": he_train_transform((333, 410))},
        {"transform": Compose([RandomAffine(degrees=30, scale=(0.7, 1.4)), RandomResizedCrop(256)])},
        {"transform": Compose([Elastic(alpha_px=9, cell_px=64), CropOrPad(600)]), "mask": "coarse.png"},
        {"transform": Compose([A.Compose([A.HorizontalFlip(p=0.5), A.CropOrPad(400, 400)]), RandomD4()])},
    ],
    ids=str,
)
def test_rows_and_columns_of_a_lazy_mask_are_those_of_the_whole_one(folder, options):
    _, expected = dataset(folder, **options)[1]
    image, mask = dataset(folder, **options, lazy=True)[1]
    height, width = mask.shape
    assert mask.shape == image.shape[1:] == tuple(expected.shape)
    assert mask.dtype == expected.dtype == torch.int64
    read = pickle.loads(pickle.dumps(mask))
    strips = [read.rows(top, min(top + 37, height)) for top in reversed(range(0, height, 37))]  # as a backward pass
    assert torch.equal(torch.cat(strips[::-1]), expected)
    assert torch.equal(mask.columns(0, width), expected)
    assert torch.equal(mask.columns(5, 9), expected[:, 5:9])
    assert torch.equal(mask.thumbnail(100), expected[:: -(-max(mask.shape) // 100), :: -(-max(mask.shape) // 100)])
    assert mask.dtype == mask.rows(0, 1).dtype


def test_masks_that_do_not_fit_are_refused(folder, tmp_path):
    with Slide(folder / "slide.tif") as slide:
        image = slide.lazy(level=0)
    other = lazy_mask(folder / "other_values.png", image, CLASSES)
    with pytest.raises(MaskError, match=r"other_values.png' holds other values than \[0, 7, 255\]"):
        other.rows(0, 20)
    with pytest.raises(IndexError, match=r"rows 370..371 of '.*' do not exist: it has 371 rows"):
        other.rows(370, 372)
    with pytest.raises(MaskError, match="has another shape than slide"):
        lazy_mask(folder / "other_shape.png", image, CLASSES)
    with pytest.raises(TypeError, match=r"does not say which slide it is of. Make it with Slide.lazy"):
        lazy_mask(folder / "fine.tif", LazyImage(pyvips.Image.black(WIDTH, HEIGHT)), CLASSES)
    with Slide(folder / "slide.tif") as slide:
        changed = slide.lazy(level=0, transform=darker)
    with pytest.raises(TransformError, match="its masks and points would stay"):
        lazy_mask(folder / "fine.tif", changed, CLASSES)
    broken = (folder / "fine.tif").read_bytes()
    (tmp_path / "broken.tif").write_bytes(broken[:3000] + bytes(20_000) + broken[23_000:])
    mask = lazy_mask(tmp_path / "broken.tif", image, CLASSES)
    with pytest.raises(UnreadableImageError, match=r"rows 0..127 of '.*broken.tif' could not be decoded"):
        mask.rows(0, 100)


def darker(image):
    return image * 0.5
