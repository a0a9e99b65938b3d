"""Resizing matches Pillow and does not stretch the image."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from wsidata.photos.resize import resize, size_with_short_side

PIXELS = np.random.default_rng(0).integers(0, 256, (90, 131, 3), dtype=np.uint8)


@pytest.mark.parametrize("size", [(45, 60), (224, 300), (1, 1), (90, 20), (89, 131)])
def test_it_is_pillows_antialiased_bilinear(size):
    expected = np.asarray(Image.fromarray(PIXELS).resize(size[::-1], Image.Resampling.BILINEAR))
    got = resize(PIXELS, size)
    assert np.abs(got.astype(int) - expected).max() <= 1
    assert got.flags.c_contiguous
    assert got.dtype == np.uint8


@pytest.mark.parametrize("covered", [(89.125, 131.0), (90.0, 130.5), (89.5, 130.125)])
@pytest.mark.parametrize("size", [(40, 58), (17, 25), (64, 93)])
def test_what_lies_outside_the_picture_does_not_stretch_it(covered, size):
    box = (0, 0, covered[1], covered[0])
    expected = np.asarray(Image.fromarray(PIXELS).resize(size[::-1], Image.Resampling.BILINEAR, box=box))
    got = resize(PIXELS, size, covered)
    assert got.shape == (*size, 3)
    # Pillow leaves out what lies beyond the box, which shows in the last row and column only.
    assert np.abs(got[:-1, :-1].astype(int) - expected[:-1, :-1]).max() <= 1


def test_the_same_size_is_left_alone():
    assert resize(PIXELS, (90, 131)) is PIXELS
    assert resize(PIXELS, (90, 131), (90.0, 131.0)) is PIXELS


@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(1, 600))
def test_the_shorter_side_is_as_requested_and_the_longer_in_proportion(height, width, short_side):
    found = size_with_short_side(height, width, short_side)
    assert min(found) == short_side
    assert (found[0] <= found[1]) == (height <= width) or found[0] == found[1]
    assert abs(max(found) - max(height, width) * short_side / min(height, width)) <= 0.5


@given(st.integers(1, 60), st.sampled_from([1, 2, 4, 8]), st.integers(1, 80), st.data())
@settings(deadline=None, max_examples=60)
def test_every_size_comes_out_whatever_part_is_covered(stored, shrink, wanted, data):
    missing = data.draw(st.integers(0, shrink - 1))
    covered = (stored * shrink - missing) / shrink
    pixels = np.full((stored, 3, 3), 7, np.uint8)
    got = resize(pixels, (wanted, 3), (covered, 3))
    assert got.shape == (wanted, 3, 3)
    assert (got == 7).all()
