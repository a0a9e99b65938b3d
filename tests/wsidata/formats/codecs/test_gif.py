"""GIFs are what Pillow says they are, damaged ones included."""

import io

import numpy as np
import pytest
from PIL import Image

from wsidata.errors import UnreadableImageError
from wsidata.formats.codecs.gif import gif_size, read_gif
from wsidata.slides.slide import Slide

SMOOTH = np.add.outer(np.arange(60), np.arange(80))[..., None] * np.array([1, 2, 3]) % 256


def gif(**options):
    stream = io.BytesIO()
    Image.fromarray(SMOOTH.astype(np.uint8)).quantize(64).save(stream, "GIF", **options)
    return stream.getvalue()


def pillows(data):
    """Pillow's pixels, or None where it refuses."""
    try:
        return np.asarray(Image.open(io.BytesIO(data)).convert("RGBA"))
    except Exception:
        return None


def mutated(data, number):
    random = np.random.default_rng(number)
    content = bytearray(data)
    place = int(random.integers(len(content)))
    if number % 3 == 0:
        return bytes(content[:place])
    content[place : place + number % 3 * 8] = random.integers(0, 256, number % 3 * 8, dtype=np.uint8).tobytes()
    return bytes(content)


def test_intact_gifs_are_pillows(tmp_path):
    for name, options in {"plain": {}, "interlaced": {"interlace": True}, "clear": {"transparency": 3}}.items():
        (tmp_path / name).write_bytes(gif(**options))
        np.testing.assert_array_equal(read_gif(tmp_path / name), pillows(gif(**options)))
        assert gif_size(tmp_path / name) == (60, 80)


def test_transparency_is_shown_on_white(tmp_path):
    (tmp_path / "a.gif").write_bytes(gif(transparency=3))
    rgba = pillows(gif(transparency=3))
    with Slide(tmp_path / "a.gif") as slide:
        assert (slide.kind, slide.reader) == ("gif", "pillow")
        found = slide.numpy()
    assert (rgba[..., 3] == 0).any()
    np.testing.assert_array_equal(found, np.where(rgba[..., 3:] == 0, 255, rgba[..., :3]))


def test_damaged_gifs_are_refused_where_pillow_refuses(tmp_path):
    """libvips shows about one in ten of these, most of their pixels wrong."""
    path, refused = tmp_path / "a.gif", 0
    for number in range(150):
        data = mutated(gif(), number)
        path.write_bytes(data)
        expected = pillows(data)
        if expected is None:
            refused += 1
            with pytest.raises(UnreadableImageError, match=r"a\.gif' is a damaged GIF"):
                read_gif(path)
        else:
            np.testing.assert_array_equal(read_gif(path), expected)
    assert 60 < refused < 150


def test_a_cut_off_gif_is_refused_by_slides(tmp_path):
    (tmp_path / "a.gif").write_bytes(gif()[:-300])
    with pytest.raises(UnreadableImageError, match=r"a\.gif' is a damaged GIF"), Slide(tmp_path / "a.gif") as slide:
        slide.numpy()
