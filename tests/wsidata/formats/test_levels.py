"""Choice of the level to read and of its resampling factor."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsidata.errors import ResolutionUnavailableError, SpacingUnknownError, UnknownLevelError
from wsidata.formats.levels import (
    Level,
    check_level,
    coarsest_level_for,
    plan_downsample,
    plan_level,
    plan_magnification,
    plan_max_side,
    plan_mpp,
    with_spacing,
)


def pyramid(width=4443, height=3567, steps=(1, 2, 4, 16), mpp=None):
    sizes = [(max(1, width // step), max(1, height // step)) for step in steps]
    levels = [Level(index, w, h, width / w, height / h) for index, (w, h) in enumerate(sizes)]
    return with_spacing(levels, mpp)


sides = st.integers(64, 200_000)
steps = st.lists(st.sampled_from([2, 3, 4, 5]), max_size=5).map(
    lambda factors: tuple(math.prod(factors[:count]) for count in range(len(factors) + 1))
)


def test_level_downsamples_are_true_ratios_not_powers_of_two():
    levels = pyramid()
    assert levels[1].downsample_x == 4443 / 2221
    assert levels[1].downsample_y == 3567 / 1783
    assert levels[1].downsample == pytest.approx(2.0005, abs=1e-4)


def test_level_spacing_scales_with_its_downsample():
    levels = pyramid(mpp=(0.25, 0.26))
    assert levels[2].mpp == (0.25 * levels[2].downsample_x, 0.26 * levels[2].downsample_y)
    assert pyramid()[0].mpp is None


@pytest.mark.parametrize("level", [-1, 4, 99])
def test_unknown_level_names_the_levels_there_are(level):
    with pytest.raises(
        UnknownLevelError, match=rf"'a.svs' has levels 0..3; level {level} does not exist.*0: 4443x3567"
    ):
        check_level(pyramid(), level, "a.svs")


def test_message_for_a_single_level_is_in_the_singular():
    with pytest.raises(UnknownLevelError, match=r"has only level 0; level 5 does not exist"):
        plan_level(pyramid(steps=(1,)), 5)


@given(sides, sides, steps, st.floats(1, 500))
def test_the_chosen_level_is_fine_enough_and_the_next_is_not(width, height, factors, asked):
    levels = pyramid(width, height, factors)
    chosen = coarsest_level_for(levels, asked, asked, tolerance=0.05)
    assert chosen is not None
    limit = asked * 1.05
    assert max(chosen.downsample_x, chosen.downsample_y) <= limit
    for coarser in levels[chosen.index + 1 :]:
        assert max(coarser.downsample_x, coarser.downsample_y) > limit or coarser.downsample <= chosen.downsample


@given(sides, sides, steps, st.floats(1, 50))
def test_output_has_the_requested_spacing_within_half_a_pixel_of_the_whole_side(width, height, factors, asked):
    plan = plan_downsample(pyramid(width, height, factors), asked)
    assert plan.width == pytest.approx(max(1, width / asked), abs=0.5 + 1e-6 * width)
    assert plan.height == pytest.approx(max(1, height / asked), abs=0.5 + 1e-6 * height)
    assert plan.factor_x >= 1 / 1.05 - 1e-9


@given(sides, sides, steps, st.floats(0.2, 0.6), st.floats(0.6, 30))
def test_mpp_equals_the_corresponding_downsample(width, height, factors, base, asked):
    levels = pyramid(width, height, factors, (base, base))
    assert plan_mpp(levels, asked) == plan_downsample(levels, asked / base)


@pytest.mark.slow
@given(sides, sides, steps, st.integers(1, 5000))
def test_max_side_is_met_exactly_and_never_enlarges(width, height, factors, max_side):
    levels = pyramid(width, height, factors)
    plan = plan_max_side(levels, max_side)
    assert max(plan.width, plan.height) == min(max_side, max(width, height))
    level = levels[plan.level]
    assert plan.width <= level.width
    assert plan.height <= level.height
    scale = max(plan.width, plan.height) / max(width, height)
    assert plan.width == pytest.approx(max(1, width * scale), abs=0.51)
    assert plan.height == pytest.approx(max(1, height * scale), abs=0.51)


def test_levels_near_the_requested_spacing_are_used_within_the_tolerance_only():
    levels = pyramid(10_000, 8_000, (1, 2, 4), (0.2525, 0.2525))
    plan = plan_mpp(levels, 0.25)
    assert plan.level == 0
    assert plan.factor_x == pytest.approx(0.25 / 0.2525)
    assert plan.width == round(10_000 * 1.01)
    with pytest.raises(
        ResolutionUnavailableError, match=r"cannot give mpp=0\.25: that is finer than its level 0 \(0\.25"
    ):
        plan_mpp(levels, 0.25, tolerance=0)


def test_a_level_that_fits_is_not_resampled():
    plan = plan_mpp(pyramid(4096, 4096, (1, 2, 4), (0.5, 0.5)), 1.0)
    assert plan.is_identity
    assert (plan.level, plan.width) == (1, 2048)


@pytest.mark.parametrize(("width", "mpp", "same"), [(100_000, 0.25 * (1 + 1e-7), True), (1000, 0.2501, False)])
def test_level_0_is_resampled_where_its_last_pixel_would_move(width, mpp, same):
    plan = plan_mpp(pyramid(width, width, (1,), (0.25, 0.25)), mpp)
    assert plan.width == width
    assert plan.is_identity == same
    assert plan.factor_x == (1.0 if same else pytest.approx(1.0004))


def test_an_axis_that_fits_is_not_resampled_with_the_other():
    plan = plan_mpp(pyramid(1000, 1000, (1,), (0.5, 0.4)), (0.5 * (1 + 1e-9), 0.8))
    assert (plan.factor_x, plan.factor_y) == (1.0, 2.0)


def test_anisotropic_spacing_is_resampled_per_axis():
    plan = plan_mpp(pyramid(1000, 1000, (1,), (0.5, 0.4)), 1.0)
    assert (plan.factor_x, plan.factor_y) == (2.0, 2.5)
    assert (plan.width, plan.height) == (500, 400)


def test_unknown_spacing_names_the_remedy():
    with pytest.raises(
        SpacingUnknownError, match=r"'x.svs' has no pixel spacing \(checked: A, B\)\. Pass mpp_override"
    ):
        plan_mpp(pyramid(), 1.0, name="x.svs", checked="A, B")


def test_magnification_needs_metadata():
    assert plan_magnification(pyramid(4096, 4096, (1, 2, 4)), 10, 40.0).level == 2
    with pytest.raises(SpacingUnknownError, match="does not say its objective power"):
        plan_magnification(pyramid(), 10, None)
    with pytest.raises(ResolutionUnavailableError, match="magnification=40"):
        plan_magnification(pyramid(), 40, 20.0)


@pytest.mark.parametrize("value", [0, -1.0, math.nan, math.inf])
def test_invalid_values_raise(value):
    with pytest.raises(ValueError, match="finite number above 0"):
        plan_downsample(pyramid(), value)


def test_max_side_below_one_raises():
    with pytest.raises(ValueError, match="at least 1"):
        plan_max_side(pyramid(), 0)
