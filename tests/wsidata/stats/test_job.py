"""Photos are added up as they look, and as the notebooks did it."""

import io
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import cv2
import numpy as np
import pytest
import pyvips
import torch
from PIL import Image
from places import PHOTOS

from wsidata.photos.read import read_photo
from wsidata.slides.slide import Slide
from wsidata.stats.compute import channel_stats, process_pool
from wsidata.stats.result import StatsError

RNG = np.random.default_rng(0)


@pytest.fixture
def photos(tmp_path):
    """One of each: JPEG, turned JPEG, Display P3, 16-bit PNG, BMP."""
    exif = Image.Exif()
    exif[0x0112] = 6
    profile = bytes(pyvips.Image.profile_load("p3"))
    options = {"a.jpg": {}, "turned.jpg": {"exif": exif}, "p3.png": {"icc_profile": profile}, "a.bmp": {}}
    for name, saving in options.items():
        Image.fromarray(RNG.integers(0, 256, (70, 50, 3), dtype=np.uint8)).save(tmp_path / name, **saving)
    cv2.imwrite(str(tmp_path / "deep.png"), RNG.integers(0, 65_536, (40, 30, 3), dtype=np.uint16))
    return sorted(tmp_path.iterdir())


def assert_pooled(stats, pixels):
    """Against numpy, channel by channel."""
    channels = [np.ascontiguousarray(channel) for channel in pixels.reshape(-1, 3).T / 255]
    np.testing.assert_allclose(stats.mean, [channel.mean() for channel in channels], rtol=0, atol=1e-12)
    np.testing.assert_allclose(stats.std, [channel.std() for channel in channels], rtol=0, atol=1e-12)


def test_photos_are_counted_as_they_are_read(photos):
    stats = channel_stats(photos, read=read_photo)
    assert_pooled(stats, np.concatenate([read_photo(path).reshape(-1, 3) for path in photos]))
    assert (stats.image_count, stats.count_px) == (5, 4 * 70 * 50 + 40 * 30)
    small = channel_stats(photos, read=partial(read_photo, short_side_px=20))
    assert_pooled(small, np.concatenate([read_photo(path, short_side_px=20).reshape(-1, 3) for path in photos]))
    stored = channel_stats(photos, read=partial(read_photo, apply_icc=False))
    assert stored.mean != stats.mean


def test_executors_leave_no_trace(photos):
    expected = channel_stats(photos, read=read_photo)
    with ThreadPoolExecutor(3) as threads:
        assert channel_stats(photos[::-1], read=read_photo, executor=threads) == expected


@pytest.mark.slow
def test_processes_leave_no_trace(photos):
    read = partial(read_photo, short_side_px=25)
    with process_pool(2) as processes:
        assert channel_stats(photos, read=read, executor=processes) == channel_stats(photos, read=read)


def test_slides_and_pictures_in_memory_are_not_read_so(photos):
    with Slide(photos[1]) as slide:
        sources = [slide, slide.image(), slide.numpy()]
        assert len({channel_stats([one], read=lambda path: 1 / 0).mean for one in sources}) == 1


def test_masks_apply_to_what_was_read(photos):
    def dark(image):
        return image.numpy().mean(axis=2) < 128

    stats = channel_stats(photos, read=read_photo, mask=dark)
    assert_pooled(stats, np.concatenate([pixels[dark_pixels(pixels)] for pixels in map(read_photo, photos)]))


def dark_pixels(pixels):
    return pixels.mean(axis=2) < 128


def test_bad_photos_are_named_together(photos, tmp_path):
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "a.jpg").read_bytes()[:-500])
    (tmp_path / "empty.png").write_bytes(b"")
    paths = [*photos, tmp_path / "cut.jpg", tmp_path / "empty.png"]
    with pytest.raises(StatsError) as error:
        channel_stats(paths, read=read_photo)
    assert "cut.jpg: UnreadableImageError" in str(error.value)
    assert "empty.png: UnreadableImageError" in str(error.value)


@pytest.mark.parametrize("options", [{"level": 0}, {"apply_icc": True}, {"crop": "tissue"}, {"mpp_override": 0.5}])
def test_what_says_how_slides_are_read_does_not_go_with_it(photos, options):
    with pytest.raises(StatsError, match="read= reads paths its own way"):
        channel_stats(photos, read=read_photo, **options)


@pytest.mark.parametrize("name", ["a.jpg", "turned.jpg", "p3.png"])
def test_a_photo_read_as_a_slide_is_counted_as_it_is_stored(photos, tmp_path, name):
    expected = np.asarray(Image.open(io.BytesIO((tmp_path / name).read_bytes())))
    assert_pooled(channel_stats([tmp_path / name]), expected)
    assert_pooled(channel_stats([str(tmp_path / name)], max_side=1000), expected)


def as_the_notebook(path):
    """Means and standard deviations of a photo as its notebook took them, but for the scale: float32, unbiased."""
    import matplotlib.pyplot as plt

    image = torch.Tensor(plt.imread(path).copy()).permute(2, 0, 1)
    return image.mean([1, 2]).double() / 255, image.std([1, 2]).double() / 255


@pytest.mark.slow
@pytest.mark.skipif(not PHOTOS.is_dir(), reason="the real photos are not here")
@pytest.mark.parametrize(("options", "step"), [({}, 2), ({"read": partial(read_photo, apply_icc=False)}, 8)])
def test_mushroom_photos_per_image_as_the_notebook_and_exactly(options, step):
    paths = sorted(PHOTOS.glob("*.[jJ][pP][gG]"))[::step]
    stats = channel_stats(paths, reduction="per_image", **options)
    assert stats.image_count == len(paths) > 30
    exact = []
    for path in paths:
        values = np.asarray(Image.open(path)).reshape(-1, 3) / 255
        exact.append([[np.ascontiguousarray(one).mean(), np.ascontiguousarray(one).std(ddof=1)] for one in values.T])
    np.testing.assert_allclose(np.mean(exact, axis=0), np.transpose([stats.mean, stats.std]), rtol=0, atol=1e-12)
    some = slice(None, None, 8 // step)
    notebook = torch.stack([torch.stack(as_the_notebook(path)) for path in paths[some]]).mean(0).numpy()
    ours = channel_stats(paths[some], reduction="per_image", **options)
    np.testing.assert_allclose([ours.mean, ours.std], notebook, rtol=0, atol=1e-6)


@pytest.mark.slow
@pytest.mark.skipif(not PHOTOS.is_dir(), reason="the real photos are not here")
def test_mushroom_photos_pooled():
    paths = sorted(PHOTOS.glob("*.[jJ][pP][gG]"))[::6]
    assert_pooled(channel_stats(paths), np.concatenate([np.asarray(Image.open(one)).reshape(-1, 3) for one in paths]))
