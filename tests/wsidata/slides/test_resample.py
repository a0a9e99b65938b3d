"""Every output pixel lies where its factor says, to 1/50 of a pixel, against references written from the definition."""

import math

import numpy as np
import pytest
import pyvips
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from wsidata.formats.levels import Level, plan_downsample
from wsidata.slides.lazy_image import LazyImage
from wsidata.slides.masks import mask_classes, read_mask
from wsidata.slides.resample import resample
from wsidata.slides.slide import Slide
from wsidata.slides.tissue.mask import tissue_mask
from wsidata.utils.rectangle import Rectangle

CLOSE = 1 / 50
"""Of an output pixel."""


def catmull_rom(distance):
    d = np.abs(distance)
    near, far = 1.5 * d**3 - 2.5 * d**2 + 1, -0.5 * d**3 + 2.5 * d**2 - 4 * d + 2
    return np.where(d < 1, near, np.where(d < 2, far, 0))


def lanczos(distance):
    return np.where(np.abs(distance) < 3, np.sinc(distance) * np.sinc(distance / 3), 0)


def by_definition(values, factor, count):
    """Output pixel i is the weighted mean of the pixels around (i + 0.5) * factor; (count, bands)."""
    block = max(1, math.floor(factor / 2))
    padded = np.pad(values, ((0, -len(values) % block), (0, 0)), mode="edge")
    means, step = padded.reshape(-1, block, values.shape[1]).mean(axis=1), factor / block
    centers = (np.arange(count) + 0.5) * step - 0.5  # in pixel numbers, whose centers are whole
    places = np.floor(centers).astype(int)[:, None] + np.arange(-12, 13)
    distances = places - centers[:, None]
    weights = lanczos(distances / step) if step > 1 else catmull_rom(distances)
    weights /= weights.sum(axis=1, keepdims=True)
    return np.einsum("ik,ikb->ib", weights, means[places.clip(0, len(means) - 1)])


near_simple = st.builds(
    lambda simple, exponent, sign: simple * (1 + sign * 10**exponent),
    st.sampled_from([1.0, 1.5, 2.0, 8 / 3, 4.0, 8.0]), st.floats(-6, -2), st.sampled_from([-1, 1]),
)  # fmt: skip
factors = st.floats(0.9, 40) | st.floats(0.9, 1.5) | near_simple | st.sampled_from([0.98, 1.05, 1.3, 1.5, 2.0005, 3.7])


@pytest.mark.slow
@settings(deadline=None, max_examples=150)
@given(factor=factors, count=st.integers(40, 200), along_x=st.booleans(), seed=st.integers(0, 99))
def test_pixels_are_those_of_the_definition_at_any_factor(factor, count, along_x, seed):
    side = max(1, round(count * factor))
    ramp, noise = np.arange(side) + 0.5, np.random.default_rng(seed).normal(size=side)
    values = np.stack([ramp, noise], axis=1)
    pixels = np.repeat(values[None] if along_x else values[:, None], 5, axis=0 if along_x else 1).astype(np.float32)
    level = Level(0, pixels.shape[1], pixels.shape[0], 1.0, 1.0)
    plan = plan_downsample([level], (factor, 1.0) if along_x else (1.0, factor), tolerance=0.12)
    resampled = resample(pyvips.Image.new_from_array(pixels), plan).numpy()
    found = (resampled[2] if along_x else resampled[:, 2])[4:-4]
    expected = by_definition(values, factor, plan.width if along_x else plan.height)[4:-4]
    assert np.abs(found - expected)[:, 0].max() / factor <= CLOSE
    assert np.square(found - expected)[:, 1].mean() <= (2.5 * CLOSE) ** 2 * np.square(expected[:, 1]).mean()


@pytest.mark.parametrize("factor", [0.9, 0.95, 0.98, 1.02, 1.05, 1.2, 1.3, 1.37, 1.5, 2.0005, 3.3, 4.1, 9.7, 40])
def test_waves_stay_in_phase_from_the_left_to_the_right(factor):
    count, periods = 240, (4.3, 5.9, 8.1)
    side = round(count * factor)
    waves = sum(np.sin(2 * np.pi * (np.arange(side) + 0.5) / (period * factor)) for period in periods)
    plan = plan_downsample([Level(0, side, 4, 1.0, 1.0)], (factor, 1.0), tolerance=0.12)
    line = resample(pyvips.Image.new_from_array(np.tile(waves.astype(np.float32), (4, 1))), plan).numpy()[2]
    for start in (6, 80, 155):
        centers = np.arange(start, start + 75) + 0.5
        parts = [np.exp(2j * np.pi * centers / period) for period in periods]
        basis = np.stack([*(one.real for one in parts), *(one.imag for one in parts)], axis=1)
        cosines, sines = np.linalg.lstsq(basis, line[start : start + 75], rcond=None)[0].reshape(2, -1)
        shifts = np.arctan2(-cosines, sines) / (2 * np.pi) * periods
        assert np.abs(shifts).max() <= CLOSE
        assert np.hypot(cosines, sines).min() > 0.7


@pytest.mark.parametrize("factor", [2.5, 3.7, 4.0, 8.0, 13.3, 40.0])
def test_detail_finer_than_a_pixel_does_not_alias(factor):
    side = round(200 * factor)
    for period in (0.9, 1.0, 1.2, 1.4):
        wave = np.sin(2 * np.pi * (np.arange(side) + 0.5) / (period * factor)).astype(np.float32)
        plan = plan_downsample([Level(0, side, 4, 1.0, 1.0)], (factor, 1.0))
        line = resample(pyvips.Image.new_from_array(np.tile(wave, (4, 1))), plan).numpy()[2]
        assert np.abs(line[8:-8]).max() < 0.01


WIDTH, HEIGHT, STEP = 1201, 907, 50


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """A slide whose channels say where each pixel lies, in 1/50 px, and masks that hold column and row modulo 240."""
    folder = tmp_path_factory.mktemp("places")
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    ramps = np.stack([columns, rows]) * STEP + STEP // 2
    tifffile.imwrite(folder / "a.ome.tif", ramps.astype(np.uint16), ome=True, tile=(64, 64), metadata={"axes": "CYX"})
    for name, numbers in (("x", columns), ("y", rows)):
        pyvips.Image.new_from_array((numbers % 240).astype(np.uint8)).write_to_file(str(folder / f"{name}.png"))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("factor", [0.98, 1.0, 1.05, 1.3, 1.5, (2.3, 0.97), (1.07, 3.7), 39.3], ids=str)
def test_image_lazy_image_region_and_mask_share_one_grid(places, factor):
    with Slide(places / "a.ome.tif", channels=[0, 1]) as slide:
        asked = {"downsample": factor}
        whole, lazy = slide.numpy(**asked), slide.image(**asked, keep_tiles=True).numpy()
        np.testing.assert_array_equal(lazy, whole)
        height, width = whole.shape[:2]
        region = Rectangle(width // 3, height // 4, width // 2, height // 3)
        read = slide.regions(**asked)
        np.testing.assert_array_equal(read(region), whole[region.y :, region.x :][: region.height, : region.width])
        steps = factor if isinstance(factor, tuple) else (factor, factor)
        for axis, name in enumerate("xy"):
            mask = read_mask(places / f"{name}.png", slide, asked, mask_classes(240)).numpy()
            found = np.take(whole[..., axis].astype(float) / STEP, height // 2 if axis == 0 else width // 2, axis=axis)
            numbers = np.take(mask, 0, axis=axis).astype(float)
            count = (width, height)[axis]
            centers = (np.arange(count) + 0.5) * steps[axis]
            inside = slice(4, count - 4)
            assert abs((found - centers)[inside].mean()) <= CLOSE * steps[axis]
            assert np.abs(found - centers)[inside].max() <= 1.5 * CLOSE * max(steps[axis], 1)
            assert (numbers == np.minimum(np.floor(centers + 1e-6), (WIDTH, HEIGHT)[axis] - 1) % 240).all()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("factor", [0.97, 1.3, 1.5, 3.7, 8.0])
def test_brightness_stays(dtype, factor):
    top = 1 if dtype == np.float32 else np.iinfo(dtype).max
    for value in (top, top * 0.9):
        pixels = np.full((90, 120, 2), value, dtype)
        plan = plan_downsample([Level(0, 120, 90, 1.0, 1.0)], factor)
        found = resample(pyvips.Image.new_from_array(pixels), plan).numpy()
        assert found.dtype == dtype
        np.testing.assert_allclose(found, pixels[0, 0, 0], rtol=1e-6)


def test_regions_equal_the_whole_where_kernel_phases_are_ties():
    """640 columns of 1286: every fifth pixel lies halfway between two of the 64 phases of libvips' kernels."""
    pixels = np.random.default_rng(0).integers(0, 256, (40, 1286, 3), dtype=np.uint8)
    plan = plan_downsample([Level(0, 1286, 40, 1.0, 1.0)], (1286 / 640, 1.0))
    image = resample(pyvips.Image.new_from_array(pixels), plan)
    whole = image.numpy()
    for start in range(0, 600, 29):
        np.testing.assert_array_equal(image.crop(start, 3, 31, 20).numpy(), whole[3:23, start : start + 31])


def test_thumbnails_and_tissue_masks_span_the_image_from_edge_to_edge():
    width, height, side = 1000, 333, 512
    ramp = np.repeat(np.linspace(0.5, height - 0.5, height)[:, None], width, axis=1).astype(np.float32)
    image = pyvips.Image.new_from_array(np.stack([ramp] * 3, axis=2))
    rows = LazyImage(image).thumbnail(side).numpy()[0, :, 100]
    step = height / len(rows)
    assert np.abs(rows / step - np.arange(len(rows)) - 0.5)[6:-6].max() <= CLOSE
    seen = []
    tissue_mask(image, lambda pixels: seen.append(pixels) or pixels[..., 0] > 0, max_side_px=side)
    np.testing.assert_allclose(seen[0][:, 100, 0], rows)
