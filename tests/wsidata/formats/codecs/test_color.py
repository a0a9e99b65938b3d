"""Everything becomes three bands of 8-bit sRGB, or is refused."""

import numpy as np
import pytest
import pyvips

from wsidata.errors import UnsupportedImageError
from wsidata.formats.codecs.color import channels_image, scaled_to_8bit, to_rgb
from wsidata.formats.codecs.icc import apply_profile

RGB = np.random.default_rng(7).integers(0, 255, (20, 30, 3), dtype=np.uint8)


def image(pixels, interpretation="srgb"):
    return pyvips.Image.new_from_array(pixels).copy(interpretation=interpretation)


def test_rgb_is_left_alone():
    out = to_rgb(image(RGB), "a")
    assert (out.bands, out.format, out.interpretation) == (3, "uchar", "srgb")
    np.testing.assert_array_equal(out.numpy(), RGB)


@pytest.mark.parametrize("interpretation", ["multiband", "rgb"])
def test_three_bands_without_a_name_are_rgb(interpretation):
    np.testing.assert_array_equal(to_rgb(image(RGB, interpretation), "a").numpy(), RGB)


def test_gray_with_alpha_is_composited():
    gray = np.dstack(
        [np.full((20, 30), 40, np.uint8), np.where(np.arange(30) < 15, 0, 255).repeat(20).reshape(30, 20).T]
    )
    out = to_rgb(image(gray.astype(np.uint8), "b-w"), "a").numpy()
    assert (out[:, :15] == 255).all()
    assert (out[:, 15:] == 40).all()


def test_ink_is_counted():
    black = np.zeros((20, 30, 4), np.uint8)
    black[..., 3] = 255
    assert to_rgb(image(black, "cmyk"), "a").numpy().max() < 80


@pytest.mark.parametrize("dtype", [np.uint16, np.float32, np.int8])
def test_other_depths_are_refused_by_name(dtype):
    with pytest.raises(UnsupportedImageError, match=r"'slide\.tif' holds"):
        to_rgb(image(RGB.astype(dtype)), "slide.tif")


def test_many_channels_are_refused_by_name():
    with pytest.raises(UnsupportedImageError, match=r"'slide\.tif' has 5 channels"):
        to_rgb(image(np.zeros((4, 4, 5), np.uint8), "multiband"), "slide.tif")


@pytest.mark.parametrize(
    ("dtype", "low_high"), [(np.uint16, (1000, 61_000)), (np.float32, (-1.0, 1.0)), (np.int16, (-9, 9))]
)
def test_scaling_is_linear_rounded_and_clipped(dtype, low_high):
    low, high = low_high
    stored = np.linspace(low - 0.4 * abs(low), high * 1.05, 600).reshape(20, 30).astype(dtype)
    expected = ((stored.astype(float) - low) * (255 / (high - low))).clip(0, 255)
    out = scaled_to_8bit(image(stored, "multiband"), low_high).numpy()
    assert out.dtype == np.uint8
    assert np.abs(out - expected).max() <= 0.5 + 1e-9
    assert (out.min(), out.max()) == (0, 255)


@pytest.mark.parametrize(
    ("bands", "dtype", "name"),
    [
        (3, np.uint8, "srgb"),
        (1, np.uint8, "b-w"),
        (2, np.uint8, "multiband"),
        (3, np.uint16, "rgb16"),
        (1, np.uint16, "grey16"),
    ],
)
def test_chosen_channels_are_shown_as_what_they_can_be(bands, dtype, name):
    out = channels_image(image(np.zeros((4, 5, bands), dtype), "multiband"))
    assert (out.interpretation, out.bands) == (name, bands)


def test_an_srgb_profile_changes_nothing_and_a_wider_one_does():
    srgb = pyvips.Image.profile_load("srgb")
    same = apply_profile(image(RGB), bytes(srgb)).numpy().astype(int)
    assert np.abs(same - RGB).max() <= 2
    wide = bytes(pyvips.Image.profile_load("p3"))
    moved = apply_profile(image(RGB), wide)
    assert moved.interpretation == "srgb"
    assert "icc-profile-data" not in moved.get_fields()
    assert np.abs(moved.numpy().astype(int) - RGB).max() > 10
