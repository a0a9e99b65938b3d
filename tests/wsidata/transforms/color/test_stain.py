import numpy as np
import pytest
import pyvips
from skimage.color import rgb2hed, rgb_from_hed

from wsidata.transforms.base import TransformError
from wsidata.transforms.color.stain import RGB_FROM_HED, DensityMap, StainJitter, stain_map

vips = pyvips.Image.new_from_array


def wide(pixels):
    """8-bit pixels as 16-bit ones, with something in the lower byte."""
    return pixels.astype(np.uint16) * 257


def reference(pixels, alpha, beta):
    """Stains as in Tellez et al., in plain NumPy: separate, change, and put together again."""
    top = float(np.iinfo(pixels.dtype).max)
    density = -np.log((pixels + 1.0) / (top + 1.0))
    stains = density @ np.linalg.inv(rgb_from_hed)
    weight = np.clip((density.mean(axis=-1, keepdims=True) - 0.05) / 0.15, 0, 1)
    changed = density + weight * ((stains * alpha + beta) @ rgb_from_hed - density)
    return np.clip((top + 1.0) * np.exp(-changed) - 1.0, 0, top)


ALPHA, BETA = np.array([1.1, 0.9, 1.05]), np.array([0.04, -0.03, 0.02])


def test_stain_vectors_are_those_of_ruifrok():
    np.testing.assert_array_equal(RGB_FROM_HED, rgb_from_hed)


@pytest.mark.parametrize("beta", [BETA, BETA * 0])
def test_jitter_is_its_formula(tissue, beta):
    operation = stain_map(ALPHA, beta)
    got = operation.image(vips(tissue)).numpy()
    assert got.dtype == np.uint8
    assert np.abs(got - reference(tissue, ALPHA, beta)).max() <= 0.75  # half of it is rounding
    got = operation.image(vips(wide(tissue))).numpy()
    assert got.dtype == np.uint16
    # The weight has 255 steps, which show in 16 bits.
    assert np.abs(got - reference(wide(tissue), ALPHA, beta)).max() <= 30


def test_amounts_become_alpha_s_plus_beta_in_scikit_images_space():
    stains = np.random.default_rng(0).uniform(0.1, 0.6, (100, 100, 3))  # scikit-image cuts off negative ones
    pixels = np.rint(256 * np.exp(-stains @ rgb_from_hed) - 1).astype(np.uint8)
    changed = stain_map(ALPHA, BETA).image(vips(pixels)).numpy()
    assert changed.min() > 20
    before, after = (rgb2hed(one) * np.log(1e6) for one in (pixels, changed))  # scikit-image divides by it
    difference = after - (before * ALPHA + BETA)
    assert np.abs(difference.mean(axis=(0, 1))).max() < 0.005
    assert difference.std(axis=(0, 1)).max() < 0.04  # two roundings to 8 bits


@pytest.mark.slow
def test_white_stays_exactly_white_whatever_is_drawn():
    white = np.full((8, 8, 3), 255, np.uint8)
    for seed in range(50):
        for pixels in (white, wide(white)):
            changed = StainJitter(alpha=0.5, beta=0.5)(vips(pixels), np.random.default_rng(seed)).numpy()
            np.testing.assert_array_equal(changed, pixels)


def test_no_jitter_changes_no_value_there_is():
    every = np.random.default_rng(0).permutation(np.repeat(np.arange(256, dtype=np.uint8), 300)).reshape(-1, 160, 3)
    same = stain_map(np.ones(3), np.zeros(3))
    np.testing.assert_array_equal(same.image(vips(every)).numpy(), every)
    every = np.random.default_rng(0).integers(0, 65536, (200, 200, 3), np.uint16)
    assert np.abs(same.image(vips(every)).numpy() - every.astype(int)).max() <= 1


def test_glass_is_not_shifted_and_nothing_jumps():
    grey = np.repeat(np.arange(256, dtype=np.uint8), 3).reshape(1, 256, 3)
    for sign in (1, -1):
        changed = stain_map(np.ones(3), sign * np.array([0.06, 0.06, 0.06])).image(vips(grey)).numpy().astype(int)
        assert (np.diff(changed, axis=1) >= 0).all()
        assert np.abs(np.diff(changed, axis=1)).max() <= 3
        np.testing.assert_array_equal(changed[:, 243:], grey[:, 243:])


def test_draws_stay_in_their_ranges(tissue):
    generator = np.random.default_rng(0)
    mix = RGB_FROM_HED.T
    draws = [StainJitter(0.2, 0.03).draw(vips(tissue), generator) for _ in range(200)]
    alphas = np.array([np.diag(np.linalg.inv(mix) @ np.array(one.matrix) @ mix) for one in draws])
    betas = np.array([np.linalg.inv(mix) @ np.array(one.offset) for one in draws])
    assert (alphas.min(axis=0) < 0.83).all()
    assert 0.8 <= alphas.min() < alphas.max() <= 1.2
    assert (betas.max(axis=0) > 0.026).all()
    assert np.abs(betas).max() <= 0.03 + 1e-12


@pytest.mark.parametrize("pixels", [np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4), np.uint8)])
def test_other_than_rgb_is_refused(pixels):
    with pytest.raises(TransformError, match="StainJitter needs an image of 3 channels"):
        StainJitter()(vips(pixels), np.random.default_rng(0))


def test_floats_are_refused():
    with pytest.raises(TransformError, match="needs an 8- or 16-bit image"):
        DensityMap(((1, 0, 0), (0, 1, 0), (0, 0, 1)), (0, 0, 0)).image(vips(np.zeros((4, 4, 3), np.float32)))


def test_factors_that_turn_stains_negative_are_refused():
    with pytest.raises(TransformError, match="alpha=1 must be below 1"):
        StainJitter(alpha=1)


@pytest.mark.parametrize("seed", range(4))
def test_sixteen_bits_are_jittered_like_eight_also_where_a_channel_is_black(seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    pixels[:20, :, 0] = 0
    shallow = StainJitter()(pyvips.Image.new_from_array(pixels), np.random.default_rng(seed)).numpy()
    deep = pyvips.Image.new_from_array(pixels.astype(np.uint16) * 257).copy(interpretation="rgb16")
    jittered = StainJitter()(deep, np.random.default_rng(seed)).numpy() / 257
    assert np.abs(jittered - shallow).max() <= 1
