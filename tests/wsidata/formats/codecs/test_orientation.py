"""Eight ways to hold a camera, one way up."""

import numpy as np
import pytest
import pyvips

from wsidata.formats.codecs.orientation import upright, upright_size

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 4, 3), dtype=np.uint8)

LETTERS = {1: "ab/cd", 2: "ba/dc", 3: "dc/ba", 4: "cd/ab", 5: "ac/bd", 6: "bd/ac", 7: "db/ca", 8: "ca/db"}
"""What is stored of ab/cd, by the table in the module's docstring."""


@pytest.mark.parametrize("orientation", range(1, 9))
def test_it_is_what_libvips_makes_of_the_tag(orientation):
    image = pyvips.Image.new_from_array(PIXELS).copy()
    image.set_type(pyvips.GValue.gint_type, "orientation", orientation)
    expected = image.autorot().numpy()
    np.testing.assert_array_equal(upright(PIXELS, orientation), expected)
    assert upright_size(6, 4, orientation) == expected.shape[:2]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_it_is_what_the_drawing_says(orientation):
    stored = np.array([list(row) for row in LETTERS[orientation].split("/")])[..., None]
    assert ["".join(row) for row in upright(stored, orientation)[..., 0]] == ["ab", "cd"]
