"""TIFFs stored turned or mirrored are shown upright on every path, as Pillow's `exif_transpose` shows them."""

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageOps

from wsidata import Slide
from wsidata.errors import UnsupportedImageError
from wsidata.formats.channels import PixelRequest
from wsidata.formats.resolution import Resolution
from wsidata.formats.tiff.reader import TiffPyramid
from wsidata.photos.read import photo_size, read_photo
from wsidata.slides.masks import mask_classes, read_mask
from wsidata.slides.tissue.crop import TissueCrop
from wsidata.stats.compute import channel_stats
from wsidata.utils.rectangle import Rectangle

TAG = 274
TURNS = range(2, 9)
PIXELS = np.random.default_rng(1).integers(0, 256, (96, 160, 3), dtype=np.uint8)
LEVELS = [PIXELS, PIXELS[::2, ::2], PIXELS[::4, ::4]]


def tag(orientation):
    return [(TAG, "H", 1, orientation, True)]


def by_pillow(pixels, orientation):
    """What Pillow makes of stored pixels with this tag."""
    image = Image.fromarray(pixels)
    image.getexif()[TAG] = orientation
    return np.asarray(ImageOps.exif_transpose(image))


def write(path, orientation, *, levels=LEVELS, turns=None, mpp=(0.5, 0.52), **options):
    """A pyramid whose directories have this orientation, or each its own."""
    with tifffile.TiffWriter(path) as tiff:
        for index, pixels in enumerate(levels):
            turn = orientation if turns is None else turns[index]
            resolution = tuple(1e4 / (one * 2**index) for one in mpp)
            tiff.write(
                pixels, tile=(16, 32), subfiletype=int(index > 0), metadata=None, resolution=resolution,
                resolutionunit="centimeter", extratags=tag(turn), **options,
            )  # fmt: skip
    return path


@pytest.mark.parametrize("orientation", TURNS)
@pytest.mark.parametrize("compression", [None, "jpeg"])
def test_levels_and_regions_are_upright(tmp_path, orientation, compression):
    path = write(tmp_path / "a.tif", orientation, photometric="rgb", compression=compression)
    stored = [tifffile.imread(path, key=index) for index in range(3)]
    with Slide(path) as slide:
        assert slide.reader == ("libjpeg-turbo" if compression else "tifffile")
        assert slide.mpp == pytest.approx((0.52, 0.5) if orientation >= 5 else (0.5, 0.52))
        for level, pixels in enumerate(stored):
            expected = by_pillow(pixels, orientation)
            assert slide.levels[level].size == (expected.shape[1], expected.shape[0])
            np.testing.assert_array_equal(slide.numpy(level=level), expected)
            np.testing.assert_array_equal(slide.image(level=level, keep_tiles=True).numpy(), expected)
            lazy = slide.lazy(level=level)
            np.testing.assert_array_equal(lazy.rows(3, 17).permute(1, 2, 0).numpy(), expected[3:17])
            np.testing.assert_array_equal(lazy.columns(5, 19).permute(1, 2, 0).numpy(), expected[:, 5:19])
            down = 2**level
            region = slide.read_region(5 * down, 3 * down, 11, 13, level=level)
            np.testing.assert_array_equal(region, expected[3:16, 5:16])


@pytest.mark.parametrize("orientation", [2, 6, 7])
def test_pipelines_statistics_and_crops_are_those_of_the_upright_slide(tmp_path, orientation):
    upright = [np.ascontiguousarray(by_pillow(pixels, orientation)) for pixels in LEVELS]
    mpp = (0.52, 0.5) if orientation >= 5 else (0.5, 0.52)
    turned = write(tmp_path / "turned.tif", orientation, photometric="rgb")
    straight = write(tmp_path / "straight.tif", 1, levels=upright, mpp=mpp, photometric="rgb")
    with Slide(turned) as slide, Slide(straight) as reference:
        for resolution in ({"mpp": 0.9}, {"downsample": 1.5}, {"max_side": 50}):
            np.testing.assert_array_equal(slide.numpy(**resolution), reference.numpy(**resolution))
            rows = slide.lazy(**resolution, crop="tissue").rows(0, 20)
            np.testing.assert_array_equal(rows, reference.lazy(**resolution, crop="tissue").rows(0, 20))
        plans = [TissueCrop("pack").plan(one, Resolution(level=0)) for one in (slide, reference)]
        assert plans[0] == plans[1]
        np.testing.assert_array_equal(slide.tissue_mask().pixels, reference.tissue_mask().pixels)
        assert slide.levels == reference.levels
    assert channel_stats([turned], mpp=0.9).mean == channel_stats([straight], mpp=0.9).mean


@pytest.mark.parametrize("orientation", TURNS)
def test_mask_fits_its_turned_slide(tmp_path, orientation):
    slide_path = write(tmp_path / "slide.tif", orientation, photometric="rgb")
    classes = (PIXELS[..., 0] > 127).astype(np.uint8)
    mask_path = tmp_path / "mask.tif"
    tifffile.imwrite(mask_path, classes, extratags=tag(orientation), metadata=None)
    with Slide(slide_path) as slide:
        mask = read_mask(mask_path, slide, {"level": 0}, mask_classes(2)).numpy()
        np.testing.assert_array_equal(mask, slide.numpy()[..., 0] > 127)


@pytest.mark.parametrize("orientation", TURNS)
def test_channels_of_16_bits_planes_and_strips_are_upright(tmp_path, orientation):
    deep = np.random.default_rng(2).integers(0, 65536, (2, 40, 70), dtype=np.uint16)
    stack, planes = tmp_path / "stack.tif", tmp_path / "planes.tif"
    with tifffile.TiffWriter(stack) as tiff:
        for plane in deep:
            tiff.write(plane, extratags=tag(orientation), rowsperstrip=7, compression="deflate", metadata=None)
    with Slide(stack, channels=[1, 0]) as slide:
        expected = np.stack([by_pillow(plane, orientation) for plane in deep[::-1]], axis=-1)
        np.testing.assert_array_equal(slide.numpy(), expected)
        np.testing.assert_array_equal(slide.lazy(dtype="float").rows(4, 9)[0], expected[4:9, :, 0] / np.float32(65535))
    rgb = np.moveaxis(PIXELS, 2, 0)
    tifffile.imwrite(planes, rgb, planarconfig="separate", photometric="rgb", extratags=tag(orientation), metadata=None)
    with Slide(planes) as slide:
        np.testing.assert_array_equal(slide.numpy(), by_pillow(PIXELS, orientation))


@pytest.mark.parametrize("orientation", TURNS)
def test_large_levels_are_read_lazily_and_upright(tmp_path, monkeypatch, orientation):
    monkeypatch.setattr("wsidata.formats.tiff.reader.DECODED_AT_ONCE_BYTES", 0)
    path = write(tmp_path / "a.tif", orientation, photometric="rgb")
    pyramid = TiffPyramid(path, PixelRequest())
    image = pyramid.image(0)
    regions = pyramid.lazy_regions(0, (3, 9))
    pyramid.close()
    expected = by_pillow(PIXELS, orientation)
    np.testing.assert_array_equal(image.numpy(), expected)
    for top in range(0, expected.shape[0] - 15, 8):
        np.testing.assert_array_equal(regions(Rectangle(2, top, 60, 15)), expected[top : top + 15, 2:62])


@pytest.mark.parametrize("orientation", TURNS)
def test_fax_and_photos_are_upright(tmp_path, orientation):
    black = PIXELS[..., 0] > 127
    Image.fromarray(black).save(tmp_path / "fax.tif", compression="group4", tiffinfo={TAG: orientation})
    with Slide(tmp_path / "fax.tif") as slide:
        np.testing.assert_array_equal(slide.numpy()[..., 0] > 0, by_pillow(black, orientation))
    photo = tmp_path / "photo.tif"
    exif = Image.Exif()
    exif[TAG] = orientation
    Image.fromarray(PIXELS).save(photo, exif=exif)
    with Image.open(photo) as image:
        expected = np.asarray(ImageOps.exif_transpose(image))
    assert expected.shape != PIXELS.shape or (expected != PIXELS).any()
    np.testing.assert_array_equal(read_photo(photo), expected)
    assert photo_size(photo) == expected.shape[:2]


def test_associated_images_are_upright_each_by_its_own_tag(tmp_path):
    path = tmp_path / "a.svs"
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(PIXELS, tile=(64, 64), photometric="rgb", description="Aperio Image\n160x96", metadata=None)
        thumbnail = PIXELS[::2, ::2]
        tiff.write(thumbnail, photometric="rgb", description="Aperio\n", extratags=tag(6), metadata=None)
    with Slide(path) as slide:
        np.testing.assert_array_equal(slide.numpy(), PIXELS)
        np.testing.assert_array_equal(slide.associated_images["thumbnail"].numpy(), by_pillow(thumbnail, 6))


def test_levels_turned_in_different_ways_are_refused(tmp_path):
    path = write(tmp_path / "a.tif", 1, turns=[3, 1, 1], photometric="rgb")
    with pytest.raises(UnsupportedImageError, match=r"directory 0: 3, directory 1: 1, .*Save the slide upright"):
        Slide(path)
    with pytest.raises(UnsupportedImageError, match="unknown Orientation 9"):
        Slide(write(tmp_path / "b.tif", 9, photometric="rgb"))
    with Slide(write(tmp_path / "c.tif", 0, photometric="rgb")) as slide:  # as some writers leave it
        np.testing.assert_array_equal(slide.numpy(), PIXELS)
