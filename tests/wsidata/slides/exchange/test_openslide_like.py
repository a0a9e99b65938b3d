"""A slide behind the interface of OpenSlide gives OpenSlide's pixels."""

import math
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tifffile
from PIL import Image

from wsidata.errors import UnknownLevelError
from wsidata.slides.exchange.openslide_like import OpenSlideLike
from wsidata.synthetic.slides import write_pixels

WIDTH, HEIGHT = 443, 357


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    pixels = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    return write_pixels(tmp_path_factory.mktemp("like") / "a.svs", pixels, vendor="aperio", tile=64, levels=3, mpp=0.5)


def array(image):
    return np.asarray(image).astype(int)


def test_it_is_what_openslide_gives(path):
    openslide = pytest.importorskip("openslide")
    deepzoom = pytest.importorskip("openslide.deepzoom")
    with openslide.OpenSlide(path) as theirs, OpenSlideLike(path) as ours:
        for name in ("dimensions", "level_count", "level_dimensions", "level_downsamples"):
            assert getattr(ours, name) == getattr(theirs, name), name
        same = ("vendor", "mpp-x", "mpp-y", "objective-power", "level-count", "level[2].width", "level[2].downsample")
        for name in same:
            assert ours.properties[f"openslide.{name}"] == theirs.properties[f"openslide.{name}"], name
        for down in (0.5, 1, 1.99, 2, 2.01, 4.1, 100):
            assert ours.get_best_level_for_downsample(down) == theirs.get_best_level_for_downsample(down)
        whole = [theirs.read_region((0, 0), level, theirs.level_dimensions[level]) for level in range(3)]
        for level, image in enumerate(whole):
            np.testing.assert_array_equal(ours.read_region((0, 0), level, image.size), image)
        np.testing.assert_array_equal(ours.read_region((-5, 9), 0, (50, 40)), theirs.read_region((-5, 9), 0, (50, 40)))
        assert sorted(ours.associated_images) == sorted(theirs.associated_images)
        np.testing.assert_array_equal(ours.associated_images["label"], theirs.associated_images["label"])
        tiles, expected = (deepzoom.DeepZoomGenerator(one, 62, 1) for one in (ours, theirs))
        assert tiles.get_dzi("png") == expected.get_dzi("png")
        for address in np.ndindex(*expected.level_tiles[-1]):  # of level 0, where nothing is interpolated
            np.testing.assert_array_equal(
                tiles.get_tile(tiles.level_count - 1, address), expected.get_tile(tiles.level_count - 1, address)
            )


def test_locations_of_a_level_are_whole_pixels_of_it(path):
    """Corners that were rounded down, as DeepZoom computes them, though the levels are not exactly halved."""
    with OpenSlideLike(path) as slide:
        for level, down in enumerate(slide.level_downsamples):
            whole = array(slide.read_region((0, 0), level, slide.level_dimensions[level]))
            for column in range(0, whole.shape[1], 7):
                place = math.floor(column * down), math.floor((whole.shape[0] - 1) * down)
                pixel = array(slide.read_region(place, level, (1, 1)))
                np.testing.assert_array_equal(pixel[0, 0], whole[-1, column])
        x, _ = (math.floor(31 * slide.level_downsamples[2]), 0)
        assert np.array_equal(slide.read_region((x + 1, 0), 2, (5, 5)), slide.read_region((x, 0), 2, (5, 5)))


def test_what_lies_outside_is_transparent(path):
    with OpenSlideLike(path) as slide:
        image = array(slide.read_region((-3, HEIGHT - 2), 0, (6, 4)))
        assert (image[..., 3] == [[0, 0, 0, 255, 255, 255]] * 2 + [[0] * 6] * 2).all()
        assert not image[image[..., 3] == 0].any()
        assert not array(slide.read_region((10**6, 0), 2, (3, 2))).any()
        assert slide.read_region((0, 0), 0, (0, 0)).size == (0, 0)
        with pytest.raises(UnknownLevelError, match=r"levels 0\.\.2"):
            slide.read_region((0, 0), 3, (5, 5))
        with pytest.raises(ValueError, match="must not be negative"):
            slide.read_region((0, 0), 0, (-1, 5))


def test_thumbnails_fit_into_the_box(path):
    with OpenSlideLike(path) as slide:
        for box in ((100, 100), (100, 20), (1000, 1000), (1, 1), (444, 50)):
            size = slide.get_thumbnail(box).size
            expected = Image.new("RGB", (WIDTH, HEIGHT))
            expected.thumbnail(box)
            assert all(0 < side <= most for side, most in zip(size, box, strict=True))
            assert all(abs(a - b) <= 1 for a, b in zip(size, expected.size, strict=True))


def test_copies_in_other_processes_and_threads_read_the_same(path):
    with OpenSlideLike(path) as slide, pickle.loads(pickle.dumps(slide)) as twin:
        places = [(x, y) for x in range(0, WIDTH, 99) for y in range(0, HEIGHT, 99)]
        expected = [array(slide.read_region(place, 0, (60, 60))) for place in places]
        with ThreadPoolExecutor(4) as pool:
            for one, found in zip(
                expected, pool.map(lambda at: twin.read_region(at, 0, (60, 60)), places), strict=True
            ):
                np.testing.assert_array_equal(found, one)


def test_channels_without_colors_are_refused(tmp_path):
    pixels = np.zeros((2, 64, 64), dtype=np.uint16)
    tifffile.imwrite(tmp_path / "a.ome.tif", pixels, metadata={"axes": "CYX"}, photometric="minisblack")
    with pytest.raises(ValueError, match="interface is for RGB"):
        OpenSlideLike(tmp_path / "a.ome.tif", channels=[0, 1])
