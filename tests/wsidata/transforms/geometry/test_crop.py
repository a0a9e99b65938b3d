import numpy as np
import pytest
import pyvips
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import interpolate

from wsidata.transforms.base import Sample, TransformError
from wsidata.transforms.geometry.crop import RandomResizedCrop, ResizedWindow
from wsidata.transforms.replay import Record

vips = pyvips.Image.new_from_array
SIDES = st.integers(1, 70)


def smooth(height, width):
    rows, columns = np.mgrid[:height, :width]
    return np.stack([4 * rows, 3 * columns, 2 * (rows + columns)], axis=-1).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("to", [(24, 30), (60, 75), (17, 90)])
def test_picture_is_resampled_as_torch_does_it(to):
    pixels = smooth(60, 80)
    found = ResizedWindow(5, 3, 64, 48, to[1], to[0]).image(vips(pixels)).numpy()
    part = torch.from_numpy(pixels[3:51, 5:69]).permute(2, 0, 1)[None].float()
    expected = interpolate(part, size=to, mode="bilinear", antialias=True)[0].permute(1, 2, 0).numpy()
    difference = np.abs(found.astype(float) - expected)
    assert found.shape == (*to, 3)
    assert difference[3:-3, 3:-3].max() <= 1.2
    assert difference.max() <= 8  # at the edges a window has no surroundings, and libraries continue it differently


@pytest.mark.parametrize("to", [(24, 30), (60, 75), (17, 90), (47, 65), (49, 63), (300, 10)])
def test_picture_is_not_displaced(to):
    rows, columns = np.mgrid[:60, :80] + 0.5
    window = ResizedWindow(5, 3, 64, 48, to[1], to[0])
    found = window.image(vips(np.stack([columns, rows], axis=2).astype(np.float32))).numpy()
    for axis, (start, side, count) in enumerate(((5, 64, to[1]), (3, 48, to[0]))):
        step = side / count
        centers = start + (np.arange(count) + 0.5) * step
        inside = (centers > start + 2 * max(1, step)) & (centers < start + side - 2 * max(1, step))
        off = np.take(found[..., axis], to[axis] // 2, axis=axis) - centers
        assert abs(off[inside].mean()) <= step / 50
        assert np.abs(off[inside]).max() <= 0.06 * max(1, step)  # of the linear kernel, whose weights do not balance


def test_16_bit_brightness_stays():
    bright = vips(np.full((50, 60, 2), 60_000, np.uint16))
    for to in ((20, 25), (70, 31)):
        assert (ResizedWindow(0, 0, 60, 50, *to).image(bright).numpy() == 60_000).all()


def test_mask_takes_the_pixel_under_each_centre_and_points_follow():
    labels = np.random.default_rng(0).integers(0, 5, (40, 60), dtype=np.uint8)
    window = ResizedWindow(7, 4, 45, 30, 30, 37)
    found = window.mask(vips(labels)).numpy()
    rows = 4 + np.floor((np.arange(37) + 0.5) * 30 / 37).astype(int)
    columns = 7 + np.floor((np.arange(30) + 0.5) * 45 / 30).astype(int)
    np.testing.assert_array_equal(found, labels[np.ix_(rows, columns)])
    np.testing.assert_allclose(window.points(np.array([[7.0, 4.0], [52.0, 34.0]]), 60, 40), [[0, 0], [30, 37]])


@pytest.mark.slow
@settings(deadline=None, max_examples=80)
@given(size=st.tuples(SIDES, SIDES), height=SIDES, width=SIDES, seed=st.integers(0, 2**32))
def test_any_picture_becomes_the_size_asked_for(size, height, width, seed):
    sample = Sample(
        vips(np.full((height, width, 3), 77, np.uint8)), masks=(vips(np.full((height, width), 3, np.uint8)),)
    )
    result = RandomResizedCrop(size).run(sample, np.random.default_rng(seed))
    assert (result.image.height, result.image.width) == size == (result.masks[0].height, result.masks[0].width)
    assert np.abs(result.image.numpy().astype(int) - 77).max() <= 2  # libvips' weights are integers
    assert (result.masks[0].numpy() == 3).all()


def test_area_and_shape_are_drawn_from_their_ranges():
    image, transform, rng = (
        vips(smooth(300, 400)),
        RandomResizedCrop(8, (0.2, 0.5), (0.8, 1.2)),
        np.random.default_rng(0),
    )
    windows = [transform.draw(image, rng) for _ in range(300)]
    areas = [window.width * window.height / 120_000 for window in windows]
    shapes = [window.width / window.height for window in windows]
    assert 0.19 < min(areas) < 0.22
    assert 0.48 < max(areas) < 0.51
    assert 0.79 < min(shapes) < 0.83
    assert 1.17 < max(shapes) < 1.21
    assert len({(window.left, window.top) for window in windows}) > 250


def test_long_picture_and_no_luck_show_the_middle():
    rng = np.random.default_rng(0)
    window = RandomResizedCrop(8, (0.9, 1.0)).draw(vips(smooth(10, 100)), rng)
    assert (window.left, window.top, window.width, window.height) == (43, 0, 13, 10)
    window = RandomResizedCrop((10, 20), p=0.0).draw(vips(smooth(60, 60)), rng)
    assert (window.left, window.top, window.width, window.height) == (0, 15, 60, 30)


def test_crop_can_be_replayed_from_its_record():
    sample = Sample(vips(smooth(50, 70)))
    result = RandomResizedCrop(20).run(sample, np.random.default_rng(5))
    again = Record.from_json(Record.of(result).to_json()).replay(sample)
    np.testing.assert_array_equal(again.image.numpy(), result.image.numpy())


@pytest.mark.parametrize("options", [{"size": 0}, {"area": (0.5, 1.5)}, {"area": (0.5, 0.1)}, {"shape": 0.0}, {"p": 2}])
def test_impossible_ranges_are_refused(options):
    with pytest.raises(TransformError):
        RandomResizedCrop(**{"size": 8} | options)
