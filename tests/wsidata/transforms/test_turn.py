"""A turn moves pixels and rectangles as NumPy's rotations and flips do."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsidata.transforms.turn import Turn
from wsidata.utils.rectangle import Rectangle

TURNS = [Turn(turns, mirrored) for turns in range(4) for mirrored in (False, True)]


def by_numpy(turn, pixels):
    turned = np.rot90(pixels, turn.turns)
    return turned[:, ::-1] if turn.mirrored else turned


@pytest.mark.parametrize(("first", "second"), list(itertools.product(TURNS, TURNS)))
def test_two_turns_are_one(first, second):
    pixels = np.arange(35).reshape(5, 7, 1)
    both = by_numpy(second, by_numpy(first, pixels))
    np.testing.assert_array_equal(by_numpy(first.then(second), pixels), both)


@pytest.mark.parametrize("turn", TURNS)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("bands", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("size", [(5, 7), (1, 9), (9, 1), (1, 1), (70, 33)])
def test_pixels_are_written_into_a_view_and_nowhere_else(turn, dtype, bands, size):
    height, width = size
    wide = np.random.default_rng(0).integers(0, 255, (height, width + 3, bands)).astype(dtype)
    pixels = wide[:, 1 : width + 1]  # rows that do not follow each other in memory
    to_width, to_height = turn.size(width, height)
    around = np.zeros((to_height + 6, to_width + 5, bands), dtype=dtype)
    out = around[2 : 2 + to_height, 3 : 3 + to_width]
    turn.write(pixels, out)
    np.testing.assert_array_equal(out, by_numpy(turn, pixels))
    out[...] = 0
    assert not around.any()


@given(st.sampled_from(TURNS), st.integers(1, 20), st.integers(1, 20), st.data())
def test_rectangles_move_with_their_pixels(turn, width, height, data):
    x, y = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    part = Rectangle(x, y, data.draw(st.integers(1, width - x)), data.draw(st.integers(1, height - y)))
    pixels = np.arange(height * width).reshape(height, width, 1)
    moved = turn.rectangle(part, width, height)
    there = by_numpy(turn, pixels)[moved.within(Rectangle(0, 0, *turn.size(width, height)))]
    np.testing.assert_array_equal(there, by_numpy(turn, pixels[part.within(Rectangle(0, 0, width, height))]))
    assert turn.source(moved, width, height) == part
