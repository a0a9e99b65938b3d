"""Three hundred damaged files: right pixels or an error that names the file. No crash, no hang, nothing else.

Where a codec has no checksum, an altered byte can make another sound picture; then only the tile it lies in may differ
(see `damages`).
"""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from wsidata.errors import SlideError, UnreadableImageError
from wsidata.slides.slide import Slide
from wsidata.synthetic.slides import write_pixels

KINDS = [
    "generic-jpeg", "aperio-jpeg", "philips-jpeg", "vips-jpeg", "subifds-jpeg", "aperio-jpeg2000", "generic-deflate",
    "generic-zstd", "generic-lzw", "generic-none", "photo-jpg", "photo-png", "photo-webp",
]  # fmt: skip
COUNT = 24
TIME_S = 200


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_damaged_files_are_refused_by_name_or_right(tmp_path, kind):
    command = [sys.executable, str(Path(__file__).with_name("damages.py")), kind, str(tmp_path), str(COUNT)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIME_S)
    assert done.returncode == 0, f"it crashed ({done.returncode}): {done.stderr}"
    found = done.stdout.splitlines()
    wrong = [verdict for verdict in found if verdict.startswith("WRONG")]
    assert not wrong, "\n".join(wrong)
    assert len(found) == COUNT
    assert found.count("refused") >= COUNT / 6, "damages that do no damage prove nothing"


@pytest.mark.parametrize("compression", ["jpeg", "deflate", "zstd"])
@pytest.mark.parametrize("what", ["removed", "emptied", "cut off"])
def test_a_file_that_goes_between_opening_and_reading(tmp_path, compression, what):
    pixels = np.random.default_rng(0).integers(0, 255, (200, 300, 3), dtype=np.uint8)
    path = write_pixels(tmp_path / "a.tif", pixels, tile=64, levels=1, compression=compression)
    with Slide(path) as slide:
        expected = slide.numpy()
    with Slide(path) as slide:
        if what == "removed":
            path.unlink()
        else:
            os.truncate(path, 0 if what == "emptied" else path.stat().st_size // 2)
        try:
            assert what == "removed"
            np.testing.assert_array_equal(slide.read_region(64, 128, 100, 70), expected[128:198, 64:164])
            np.testing.assert_array_equal(slide.numpy(), expected)
        except (AssertionError, SlideError):
            with pytest.raises(UnreadableImageError, match=r"a\.tif"):
                slide.numpy()
    if what == "removed":
        with pytest.raises(FileNotFoundError, match=r"a\.tif"):
            Slide(path)
