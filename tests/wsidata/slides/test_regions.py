"""A region is the same region of the whole, and neighbors join without a seam."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from wsidata.errors import SpacingUnknownError
from wsidata.formats.levels import Level, plan_downsample
from wsidata.slides.resample import output_pixel, source_region
from wsidata.slides.slide import Slide
from wsidata.synthetic.slides import write_pixels
from wsidata.utils.rectangle import Rectangle

WIDTH, HEIGHT = 701, 499


@pytest.fixture(scope="module")
def slide(tmp_path_factory):
    """Noise, in which the smallest shift shows, in levels of 701, 350 and 175 columns."""
    pixels = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    path = tmp_path_factory.mktemp("regions") / "a.tif"
    write_pixels(path, pixels, tile=64, levels=3, compression="deflate", mpp=0.5)
    with Slide(path) as opened:
        yield opened


factors = st.floats(0.96, 30) | st.sampled_from([1.0, 2.0, 3.0, 4.0, 701 / 350, 701 / 175])
pairs = st.tuples(factors, factors)


@pytest.mark.slow
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    down=factors | pairs, x=st.integers(-60, 760), y=st.integers(-60, 560), w=st.integers(1, 90), h=st.integers(1, 90)
)
def test_a_region_is_that_region_of_the_whole_resampled_slide(slide, down, x, y, w, h):
    region = slide.read_region(x, y, w, h, downsample=down)
    whole = slide.numpy(downsample=down)
    plan = plan_downsample(slide.levels, down)
    left, top = output_pixel(plan, slide.levels[plan.level], x, y)
    rows, columns = np.arange(top, top + h), np.arange(left, left + w)
    expected = whole[rows.clip(0, plan.height - 1)][:, columns.clip(0, plan.width - 1)]
    expected[(rows < 0) | (rows >= plan.height)] = 255
    expected[:, (columns < 0) | (columns >= plan.width)] = 255
    np.testing.assert_array_equal(region, expected)


@pytest.mark.slow
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(down=st.floats(1.0, 12), size=st.integers(20, 120))
@example(down=1.1, size=99)  # 495 * 1.1 is 544.5, and (544 + 0.5) / 1.1 a little less than 495
def test_neighboring_regions_join_without_a_seam(slide, down, size):
    """Places rounded to whole level-0 pixels, as a user computes them."""
    whole = slide.numpy(downsample=down)
    plan = plan_downsample(slide.levels, down)
    step_x, step_y = (
        getattr(slide.levels[plan.level], f"downsample_{axis}") * getattr(plan, f"factor_{axis}") for axis in "xy"
    )
    joined = np.zeros_like(whole)
    for row in range(0, whole.shape[0], size):
        for column in range(0, whole.shape[1], size):
            part = slide.read_region(round(column * step_x), round(row * step_y), size, size, downsample=down)
            place = joined[row : row + size, column : column + size]
            place[...] = part[: place.shape[0], : place.shape[1]]
    np.testing.assert_array_equal(joined, whole)


def test_regions_take_a_spacing_a_magnification_or_a_level(slide):
    np.testing.assert_array_equal(slide.read_region(0, 0, 50, 40, mpp=1.7), slide.numpy(mpp=1.7)[:40, :50])
    np.testing.assert_array_equal(slide.read_region(0, 0, 50, 40, level=2), slide.numpy(level=2)[:40, :50])
    np.testing.assert_array_equal(slide.read_region(0, 0, 50, 40, 2), slide.numpy(level=2)[:40, :50])
    with pytest.raises(TypeError, match="one resolution, not 2"):
        slide.read_region(0, 0, 5, 5, 0, mpp=1.0)


sides = st.integers(50, 100_000)


@given(sides, sides, st.floats(1, 64), st.floats(1, 30), st.data())
def test_places_there_and_back_are_the_same_pixel(width, height, level_down, factor, data):
    level = Level(
        1, max(1, round(width / level_down)), max(1, round(height / level_down)), level_down, level_down * 1.0003
    )
    plan = plan_downsample([level], (level_down * factor, level_down * factor))
    x, y = data.draw(st.integers(0, plan.width - 1)), data.draw(st.integers(0, plan.height - 1))
    x_lv0 = math.floor(x * level.downsample_x * plan.factor_x + 0.5)  # nearest to the corner of the output pixel
    y_lv0 = math.floor(y * level.downsample_y * plan.factor_y + 0.5)
    assert output_pixel(plan, level, x_lv0, y_lv0) == (x, y)


@given(sides, st.floats(0.96, 64), st.data())
def test_the_source_of_a_region_is_inside_the_level_and_covers_the_kernel(side, factor, data):
    level = Level(0, side, side, 1.0, 1.0)
    plan = plan_downsample([level], factor)
    start = data.draw(st.integers(0, plan.width - 1))
    region = Rectangle(start, 0, data.draw(st.integers(1, plan.width - start)), 1)
    source = source_region(plan, level, region)
    assert source.x >= 0
    assert source.width >= 1
    assert source.x + source.width <= side
    reach = 3 * max(1.0, plan.factor_x)
    assert source.x <= max(0, region.x * plan.factor_x - reach)
    assert source.x + source.width >= min(side, (region.x + region.width) * plan.factor_x + reach)


def test_rectangles_are_cut_to_the_image():
    assert Rectangle(-5, 3, 20, 10).inside(8, 8) == Rectangle(0, 3, 8, 5)
    assert Rectangle(8, 0, 4, 4).inside(8, 8) is None
    assert Rectangle(0, -4, 4, 4).inside(8, 8) is None
    rows, columns = Rectangle(0, 3, 8, 5).within(Rectangle(-5, 3, 20, 10))
    assert (rows, columns) == (slice(0, 5), slice(5, 13))


def test_regions_in_um_are_those_pixels(tmp_path):
    """Each pixel says where it lies; edges are computed in fractions."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    pixels = np.stack([x % 256, y % 256, 16 * (x // 256) + y // 256], axis=-1).astype(np.uint8)
    path = write_pixels(tmp_path / "a.tif", pixels, tile=64, levels=2, compression="deflate", mpp=None)
    rng, mpp = np.random.default_rng(0), (Fraction(1, 10), Fraction(3, 10))
    with Slide(path) as slide, pytest.raises(SpacingUnknownError, match="mpp_override"):
        slide.read_region_um(0, 0, 5, 5, level=0)
    with Slide(path, mpp_override=(0.1, 0.3)) as slide:
        for _ in range(100):
            starts = [Fraction(int(rng.integers(1, 1400)), 20), Fraction(int(rng.integers(1, 2900)), 20)]
            sizes = [Fraction(int(rng.integers(2, 80)), 20), Fraction(int(rng.integers(6, 80)), 20)]
            spans = [
                (math.floor(start / one + Fraction(1, 2)), math.floor((start + size) / one + Fraction(1, 2)))
                for start, size, one in zip(starts, sizes, mpp, strict=True)
            ]
            found = slide.read_region_um(*map(float, starts + sizes))
            (left, right), (top, bottom) = spans
            assert found.shape == (bottom - top, right - left, 3)
            np.testing.assert_array_equal(found[: HEIGHT - top, : WIDTH - left], pixels[top:bottom, left:right])
        np.testing.assert_array_equal(  # at another resolution
            slide.read_region_um(4, 6, 20, 30, mpp=(0.4, 1.0)), slide.numpy(mpp=(0.4, 1.0))[6:36, 10:60]
        )
        np.testing.assert_array_equal(slide.read_region_um(10, 0, 5, 9, 1), slide.numpy(level=1)[:15, 50:75])
        assert (slide.read_region_um(-1, -1, 1, 1) == 255).all()
        for size in (0.05, 0, -3, math.nan, math.inf):
            with pytest.raises(ValueError, match="at least one pixel"):
                slide.read_region_um(0, 0, size, 5)
