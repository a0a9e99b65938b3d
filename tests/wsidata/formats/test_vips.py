"""libvips as slides need it."""

import numpy as np
import pytest
import pyvips

from wsidata.errors import UnreadableImageError
from wsidata.formats.vips import naming_errors


def test_errors_name_the_file():
    with pytest.raises(UnreadableImageError, match=r"'x\.png' could not be decoded: .*gone"), naming_errors("x.png"):
        pyvips.Image.new_from_file("gone.png")


def test_a_file_written_anew_is_read_anew(tmp_path):
    """libvips' cache of operations would hand out the first picture."""
    path = str(tmp_path / "a.png")
    for value in (10, 200):
        pyvips.Image.new_from_array(np.full((8, 8), value, np.uint8)).write_to_file(path)
        assert pyvips.Image.new_from_file(path).avg() == value
