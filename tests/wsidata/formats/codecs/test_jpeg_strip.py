import io

import numpy as np
import pytest
from PIL import Image

from wsidata.formats.codecs.jpeg_strip import stripped_jpeg
from wsidata.photos.read import read_photo

SECRETS = (b"Jane Doe", b"my comment", b"profile", b"trailing")


def photo(path, *, mode="RGB", **options):
    """A JPEG with all sorts of metadata, and bytes after its end."""
    rng = np.random.default_rng(0)
    shape = (40, 56, 3) if mode == "RGB" else (40, 56)
    exif = Image.Exif()
    exif[0x9286], exif[0x013B] = "Jane Doe", "Jane Doe"
    out = io.BytesIO()
    Image.fromarray(rng.integers(0, 255, shape, dtype=np.uint8)).save(
        out, "JPEG", exif=exif, icc_profile=b"profile" * 30, comment=b"my comment", **options
    )
    path.write_bytes(out.getvalue() + b"trailing" * 9)
    return path


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_blocks": 2}, {"mode": "L"}])
def test_pixels_stay_and_everything_else_goes(tmp_path, options):
    path = photo(tmp_path / "a.jpg", **options)
    assert all(secret in path.read_bytes() for secret in SECRETS)
    stripped = stripped_jpeg(path)
    assert not any(secret in stripped for secret in SECRETS)
    assert b"Exif" not in stripped
    (tmp_path / "b.jpg").write_bytes(stripped)
    np.testing.assert_array_equal(read_photo(tmp_path / "b.jpg"), read_photo(path, apply_icc=False))


def test_stripping_twice_changes_nothing(tmp_path):
    once = stripped_jpeg(photo(tmp_path / "a.jpg"))
    (tmp_path / "b.jpg").write_bytes(once)
    assert stripped_jpeg(tmp_path / "b.jpg") == once


@pytest.mark.parametrize("cut", [3, 30, 700, -60])
def test_what_cannot_be_followed_to_its_end_is_none(tmp_path, cut):
    path = photo(tmp_path / "a.jpg")
    end = path.read_bytes().rindex(b"\xff\xd9") if cut < 0 else 0
    path.write_bytes(path.read_bytes()[: end + cut])
    assert stripped_jpeg(path) is None


def test_other_files_are_none(tmp_path):
    (tmp_path / "a.png").write_bytes(b"\x89PNG....")
    assert stripped_jpeg(tmp_path / "a.png") is None
