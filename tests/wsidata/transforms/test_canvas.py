"""What is painted on a canvas is what libvips makes of the whole image, to the bit."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import pyvips
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from wsidata.formats.vips import pixels_of
from wsidata.transforms.canvas import Canvas
from wsidata.transforms.color.stain import DensityMap
from wsidata.transforms.color.tone import GaussianBlur, ToneCurve
from wsidata.transforms.geometry.affine import Symmetry
from wsidata.transforms.geometry.crop import CropWindow
from wsidata.transforms.geometry.dropout import Holes
from wsidata.utils.rectangle import Rectangle

MIX = ((0.9, 0.1, 0.0), (0.05, 1.1, -0.1), (0.0, 0.2, 0.8))
crops = st.builds(
    CropWindow, st.integers(-90, 90), st.integers(-90, 90), st.integers(1, 150), st.integers(1, 150),
    st.sampled_from([None, 0.0, 17.0, 3.7]), st.just(0.0),
)  # fmt: skip
turns = st.builds(Symmetry, st.integers(0, 3), st.booleans())
holes = st.builds(Holes, st.just(((1, 2, 9, 5), (4, 0, 3, 8))), st.sampled_from([None, 0.0, 99.6]), st.none())
colors = st.sampled_from(
    [
        ToneCurve((0.1, 0.0, -0.1), (1.1, 0.9, 1.0), (1.0, 1.2, 0.8)),
        DensityMap(MIX, (0.02, -0.01, 0.0)),
        DensityMap(MIX, (0.0, 0.0, 0.0)),
    ]
)
ANY_KIND, RGB = st.one_of(crops, turns, holes), st.one_of(crops, turns, holes, colors)
KINDS = [(np.uint8, 3), (np.uint8, 1), (np.uint8, 5), (np.uint16, 3), (np.uint16, 2), (np.float32, 3), (np.float64, 1)]


def picture(width, height, bands, dtype):
    return np.random.default_rng(0).integers(0, 256, (height, width, bands)).astype(dtype)


def parts_of(pixels, tile_px, threads=1):
    """Reads an array tile by tile."""
    whole = Rectangle(0, 0, pixels.shape[1], pixels.shape[0])

    def read(region, put):
        assert region.intersection(whole) == region
        tiles = [
            part
            for top in range(0, whole.height, tile_px)
            for left in range(0, whole.width, tile_px)
            if (part := Rectangle(left, top, tile_px, tile_px).intersection(region)) is not None
        ]
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(lambda part: put(part, pixels[part.within(whole)]), reversed(tiles)))

    return read


def check(chain, pixels, tile_px, window):
    image = pyvips.Image.new_from_array(pixels)
    image = image.copy(interpretation="srgb") if pixels.dtype == np.uint8 and pixels.shape[2] == 3 else image
    canvas = Canvas.of(image.width, image.height, image.bands, pixels.dtype)
    for operation in chain:
        if isinstance(operation, CropWindow):  # libvips pads no picture that lies wholly outside
            rectangle = Rectangle(operation.left, operation.top, operation.width, operation.height)
            assume(rectangle.inside(image.width, image.height))
        canvas, image = operation.on_canvas(canvas), operation.image(image)
        assert (canvas.width, canvas.height, canvas.format) == (image.width, image.height, image.format)
    expected = pixels_of(image)
    found = canvas.array(parts_of(pixels, tile_px))
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)
    part = window(Rectangle(0, 0, image.width, image.height))
    there = canvas.window(part).array(parts_of(pixels, tile_px))
    np.testing.assert_array_equal(there, expected[part.within(Rectangle(0, 0, image.width, image.height))])


def window_from(data):
    def choose(whole):
        x, y = data.draw(st.integers(0, whole.width - 1)), data.draw(st.integers(0, whole.height - 1))
        width, height = data.draw(st.integers(1, whole.width - x)), data.draw(st.integers(1, whole.height - y))
        return Rectangle(x, y, width, height)

    return choose


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(st.lists(RGB, max_size=6), st.integers(1, 90), st.integers(1, 90), st.integers(7, 64), st.data())
def test_chains_on_rgb(chain, width, height, tile_px, data):
    check(chain, picture(width, height, 3, np.uint8), tile_px, window_from(data))


@pytest.mark.slow
@settings(max_examples=80, deadline=None)
@given(st.lists(ANY_KIND, max_size=5), st.sampled_from(KINDS), st.integers(1, 60), st.integers(1, 60), st.data())
def test_chains_on_other_kinds(chain, kind, width, height, data):
    dtype, bands = kind
    check(chain, picture(width, height, bands, dtype), 16, window_from(data))


def test_a_picture_wholly_outside_is_padding():
    canvas = CropWindow(100, 0, 5, 4, None, None).on_canvas(Canvas.of(20, 30, 3, np.uint8))
    assert (canvas.array(lambda region, put: pytest.fail("read")) == 255).all()


def test_padding_takes_part_in_later_changes_of_color():
    curve = ToneCurve((-0.5,) * 3, (1.0,) * 3, (1.0,) * 3)
    canvas = curve.on_canvas(CropWindow(-3, 0, 5, 4, None, None).on_canvas(Canvas.of(20, 30, 3, np.uint8)))
    assert canvas.array(parts_of(np.zeros((30, 20, 3), np.uint8), 8))[0, 0].tolist() == [128] * 3


def test_pieces_are_packed():
    pixels = picture(50, 40, 3, np.uint8)
    pieces = [(Rectangle(3, 4, 20, 10), 1, 0), (Rectangle(30, 20, 9, 15), 25, 2)]
    canvas = Canvas.of(50, 40, 3, np.uint8).packed(pieces, 36, 20, 200)
    expected = np.full((20, 36, 3), 200, np.uint8)
    expected[0:10, 1:21] = pixels[4:14, 3:23]
    expected[2:17, 25:34] = pixels[20:35, 30:39]
    np.testing.assert_array_equal(canvas.array(parts_of(pixels, 16)), expected)
    turned = Symmetry(1, True).on_canvas(canvas)
    np.testing.assert_array_equal(turned.array(parts_of(pixels, 16)), np.rot90(expected)[:, ::-1])


def test_several_threads_paint_the_same(monkeypatch):
    monkeypatch.setattr("wsidata.transforms.color_table.PIXELS_AT_ONCE", 3000)
    pixels = picture(300, 200, 3, np.uint8)
    canvas = Canvas.of(300, 200, 3, np.uint8)
    for operation in (DensityMap(MIX, (0.02, -0.01, 0.0)), Symmetry(1, False)):
        canvas = operation.on_canvas(canvas)
    np.testing.assert_array_equal(canvas.array(parts_of(pixels, 16, threads=4)), canvas.array(parts_of(pixels, 64)))


def test_what_cannot_be_planned_has_no_canvas():
    canvas = Canvas.of(20, 30, 3, np.uint8)
    assert GaussianBlur(1.0).on_canvas(canvas) is None
    assert ToneCurve((0.1,), (1.0,), (1.0,)).on_canvas(Canvas.of(20, 30, 1, np.uint8)) is None
    assert DensityMap(MIX, (0.0, 0.0, 0.0)).on_canvas(Canvas.of(20, 30, 3, np.uint16)) is None
    assert Canvas.of(20, 30, 3, np.int32) is None


@pytest.mark.slow
@pytest.mark.parametrize("offset", [(0.0, 0.0, 0.0), (0.03, -0.02, 0.01)])
def test_every_color_becomes_what_libvips_makes_of_it(offset):
    cube = np.arange(2**24, dtype="<u4").view(np.uint8).reshape(4096, 4096, 4)[::3, :, :3]
    operation = DensityMap(MIX, offset)
    expected = operation.image(pyvips.Image.new_from_array(np.ascontiguousarray(cube), interpretation="srgb")).numpy()
    for row in range(0, len(cube), 64):
        found = operation.colors(cube[row : row + 64].reshape(-1, 3))
        np.testing.assert_array_equal(found, expected[row : row + 64].reshape(-1, 3))
