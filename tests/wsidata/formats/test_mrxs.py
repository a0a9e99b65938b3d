"""MRXS slides, cropped from a mostly empty canvas to the scanned area."""

import numpy as np
import pytest
from mirax import write_mrxs

from wsidata.errors import UnreadableImageError
from wsidata.slides.slide import Slide

pytest.importorskip("openslide")

SIDE = 64
TAKEN = np.zeros((8, 10), bool)
TAKEN[2:5, 3:8] = True
TAKEN[3, 5] = False  # a hole
LEFT, TOP, WIDTH, HEIGHT = 3 * SIDE, 2 * SIDE, 5 * SIDE, 3 * SIDE


@pytest.fixture(scope="module")
def canvas():
    blocks = np.random.default_rng(0).integers(0, 200, (8 * SIDE // 4, 10 * SIDE // 4, 3), dtype=np.uint8)
    canvas = blocks.repeat(4, axis=0).repeat(4, axis=1)  # halves without rounding
    canvas[~TAKEN.repeat(SIDE, axis=0).repeat(SIDE, axis=1)] = 255
    return canvas


@pytest.fixture(scope="module")
def path(canvas, tmp_path_factory):
    return write_mrxs(tmp_path_factory.mktemp("mrxs") / "a.mrxs", canvas, TAKEN, SIDE)


def test_slide_is_cropped_to_the_scanned_area(path, canvas):
    with Slide(path) as slide:
        assert (slide.kind, slide.reader) == ("mirax", "openslide")
        assert [level.size for level in slide.levels] == [(WIDTH, HEIGHT), (WIDTH // 2, HEIGHT // 2)]
        assert [level.downsample for level in slide.levels] == [1, 2]
        assert slide.mpp == (0.5, 0.5)
        assert slide.magnification == 20
        scanned = canvas[TOP : TOP + HEIGHT, LEFT : LEFT + WIDTH]
        np.testing.assert_array_equal(slide.numpy(level=0), scanned)
        np.testing.assert_array_equal(slide.numpy(level=1), scanned[::2, ::2])
        np.testing.assert_array_equal(slide.lazy(level=0).rows(50, 150).permute(1, 2, 0), scanned[50:150])


def test_coordinates_start_at_the_first_scanned_pixel_and_outside_is_white(path, canvas):
    with Slide(path) as slide:
        np.testing.assert_array_equal(slide.read_region(70, 90, 33, 20), canvas[TOP + 90 :, LEFT + 70 :][:20, :33])
        half = slide.read_region(70, 90, 33, 20, level=1)
        np.testing.assert_array_equal(half, canvas[TOP + 90 :: 2, LEFT + 70 :: 2][:20, :33])
        hole = slide.read_region(2 * SIDE, SIDE, SIDE, SIDE)
        outside = slide.read_region(-9, HEIGHT - 4, 9, 9)
        assert (hole == 255).all()
        assert (outside == 255).all()


def test_canvas_is_not_tissue(path):
    with Slide(path) as slide:
        box = slide.tissue_mask(lambda pixels: pixels.mean(axis=2) < 230).bounding_box
        assert box == (0, 0, WIDTH, HEIGHT)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Data0000.dat", "could not be (decoded|opened)"),
        ("Index.dat", "could not be opened"),
        ("Slidedat.ini", "is only the cover"),
    ],
)
def test_missing_files_are_named(tmp_path, canvas, name, words):
    path = write_mrxs(tmp_path / "a.mrxs", canvas, TAKEN, SIDE)
    (tmp_path / "a" / name).unlink()
    with pytest.raises(UnreadableImageError, match=rf"a\.mrxs' {words}"):
        Slide(path).numpy(level=0)
