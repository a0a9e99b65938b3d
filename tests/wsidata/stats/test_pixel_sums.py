import numpy as np
import pytest
import pyvips
from hypothesis import given, settings
from hypothesis import strategies as st

from wsidata.stats.pixel_sums import (
    FLOAT_TERMS,
    PixelCountError,
    count_array,
    count_pixels,
    stretch_mask,
    suits_count_array,
)


def picture(pixels):
    return pyvips.Image.new_from_array(pixels)


def random_pixels(height, width, bands, dtype, seed=0):
    top = np.iinfo(dtype).max
    return np.random.default_rng(seed).integers(0, top, (height, width, bands), dtype, endpoint=True)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("bands", [1, 3, 5])
def test_sums_are_those_of_whole_numbers(dtype, bands):
    pixels = random_pixels(61, 47, bands, dtype)
    found = count_pixels(picture(pixels))
    values = pixels.astype(object)
    assert found.count_px == 61 * 47
    assert found.sums == tuple(values.sum(axis=(0, 1)))
    assert found.squares == tuple((values**2).sum(axis=(0, 1)))
    assert found.max_value == np.iinfo(dtype).max


@pytest.mark.slow
@pytest.mark.parametrize("bands", [1, 2, 3, 4])
@pytest.mark.parametrize("size", [(1, 1), (61, 47), (9000, 3), (3, 30_000), (2 * FLOAT_TERMS + 5, 22_000)])
@pytest.mark.parametrize("brightest", [False, True])
def test_arrays_are_added_up_exactly(size, bands, brightest):
    """Also where all values are the largest, and one float could not hold their squares' sum."""
    if np.prod(size) > 10**6 and not (brightest and bands == 3):
        size = (FLOAT_TERMS + 3, 300)
    pixels = np.full((*size, bands), 255, np.uint8) if brightest else random_pixels(*size, bands, np.uint8)
    found = count_array(pixels)
    values = pixels.reshape(-1, bands)
    assert found.sums == tuple(values.sum(axis=0, dtype=np.int64))
    assert found.squares == tuple(np.square(values, dtype=np.uint16).sum(axis=0, dtype=np.int64))
    assert (found.count_px, found.max_value) == (len(values), 255)


def test_arrays_in_any_memory_order_are_added_up():
    pixels = random_pixels(30, 20, 3, np.uint8)
    turned = pixels[::-1, :, ::-1].swapaxes(0, 1)
    assert count_array(turned).squares == count_array(pixels).squares[::-1]


@pytest.mark.parametrize(
    ("shape", "dtype"), [((4, 5), np.uint8), ((4, 5, 5), np.uint8), ((0, 5, 3), np.uint8), ((4, 5, 3), np.uint16)]
)
def test_what_opencv_does_not_add_up_is_left_to_libvips(shape, dtype):
    assert not suits_count_array(np.zeros(shape, dtype))
    assert suits_count_array(np.zeros((4, 5, 3), np.uint8))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_masked_sums_leave_out_what_is_outside_also_true_zeros(dtype):
    pixels = random_pixels(40, 30, 3, dtype)
    pixels[::3] = 0
    mask = np.random.default_rng(1).random((40, 30)) < 0.4
    found = count_pixels(picture(pixels), mask)
    inside = pixels[mask].astype(object)
    assert found.count_px == mask.sum()
    assert found.sums == tuple(inside.sum(axis=0))
    assert found.squares == tuple((inside**2).sum(axis=0))


@pytest.mark.parametrize("everywhere", [True, False])
def test_full_and_empty_masks(everywhere):
    pixels = random_pixels(8, 9, 3, np.uint8)
    found = count_pixels(picture(pixels), np.full((2, 3), everywhere))
    assert found.count_px == (72 if everywhere else 0)
    assert found.sums == (tuple(pixels.astype(int).sum(axis=(0, 1))) if everywhere else (0, 0, 0))


@pytest.mark.slow
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 300), st.integers(1, 300))
@settings(max_examples=60, deadline=None)
def test_mask_cells_are_those_that_hold_the_pixels_centers(columns, rows, width, height):
    cells = np.random.default_rng(columns * rows).random((rows, columns)) < 0.5
    across = ((2 * np.arange(width) + 1) * columns) // (2 * width)
    down = ((2 * np.arange(height) + 1) * rows) // (2 * height)
    got = stretch_mask(cells, width, height).numpy().reshape(height, width)
    # Where a center falls on the border of two cells to the last bit, either is right.
    exact = ((2 * np.arange(width) + 1) * columns) % (2 * width) != 0
    exact_down = ((2 * np.arange(height) + 1) * rows) % (2 * height) != 0
    expected = cells[np.ix_(down, across)] * 255
    np.testing.assert_array_equal(got[np.ix_(exact_down, exact)], expected[np.ix_(exact_down, exact)])


def test_counts_that_ran_over_are_noticed(monkeypatch):
    wrapped = [[2**32 - 1] + [0] * 255]
    monkeypatch.setattr("wsidata.stats.pixel_sums._histograms", lambda image: wrapped)
    with pytest.raises(PixelCountError, match=f"counted {2**32 - 1} of 36 pixels. Install a newer pyvips-binary"):
        count_pixels(picture(np.zeros((6, 6), np.uint8)))


def test_floats_are_refused():
    with pytest.raises(PixelCountError, match=r"pixels are 'float'.*before steps that make floats"):
        count_pixels(picture(np.zeros((4, 4, 3), np.float32)))


@pytest.mark.parametrize("mask", [np.zeros((4, 4)), np.zeros((4, 4, 1), bool), np.zeros((0, 4), bool)])
def test_what_is_no_mask_is_refused(mask):
    with pytest.raises(PixelCountError, match="the mask is an array of shape"):
        count_pixels(picture(np.zeros((4, 4, 3), np.uint8)), mask)
