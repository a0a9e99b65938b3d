import numpy as np
import pytest
import pyvips

from wsidata.transforms.base import TransformError
from wsidata.transforms.color.stain import stain_map
from wsidata.transforms.color.stain_normalize import (
    BLOCK_PX,
    MACENKO_REFERENCE,
    BlankImageError,
    ColorFit,
    MacenkoNormalize,
    ReinhardNormalize,
    StainFit,
    fit_macenko,
    fit_reinhard,
    sample_pixels,
)

vips = pyvips.Image.new_from_array


def restained(tissue):
    return stain_map(np.array([1.3, 0.8, 1.0]), np.zeros(3)).image(vips(tissue)).numpy()


def macenko(pixels, beta=0.15, percent=1):
    """The published algorithm, step by step (Macenko et al., section 2), in plain NumPy and with an SVD."""
    density = -np.log((pixels.reshape(-1, 3) + 1.0) / 256)
    stained = density[(density >= beta).all(axis=1)]
    _, _, directions = np.linalg.svd(stained - stained.mean(axis=0), full_matrices=False)
    first, second = (d if d[0] > 0 else -d for d in directions[:2])
    angles = np.arctan2(stained @ second, stained @ first)
    low, high = np.percentile(angles, percent), np.percentile(angles, 100 - percent)
    ends = [np.cos(a) * first + np.sin(a) * second for a in (low, high)]
    stains = np.array(ends if ends[0][0] > ends[1][0] else ends[::-1]).T
    amounts = np.linalg.pinv(stains) @ stained.T
    return stains, np.percentile(amounts, 99, axis=1)


def test_fit_is_the_published_algorithm(tissue):
    fit = fit_macenko(vips(tissue))
    stains, strongest = macenko(tissue)
    np.testing.assert_allclose(np.stack([fit.haematoxylin, fit.eosin], axis=1), stains, atol=1e-9)
    np.testing.assert_allclose(fit.strongest, strongest, rtol=1e-9)
    np.testing.assert_allclose(np.linalg.norm(fit.haematoxylin), 1)
    assert fit.haematoxylin[0] > fit.eosin[0]


def test_normalised_picture_is_recomposed_from_the_targets_stains(tissue):
    stains, strongest = macenko(tissue)
    density = -np.log((tissue.reshape(-1, 3) + 1.0) / 256)
    amounts = np.linalg.lstsq(stains, density.T, rcond=None)[0]
    target = np.stack([MACENKO_REFERENCE.haematoxylin, MACENKO_REFERENCE.eosin], axis=1)
    mapped = target @ (amounts * (np.array(MACENKO_REFERENCE.strongest) / strongest)[:, None])
    weight = np.clip((density.mean(axis=1, keepdims=True) - 0.05) / 0.15, 0, 1)
    blended = density + weight * (mapped.T - density)
    expected = np.clip(256 * np.exp(-blended) - 1, 0, 255).reshape(tissue.shape)
    got = MacenkoNormalize()(vips(tissue), np.random.default_rng(0)).numpy()
    assert np.abs(got - expected).max() <= 0.75


def test_differently_stained_copies_become_alike(tissue):
    other = restained(tissue)
    assert np.abs(other.astype(int) - tissue).mean() > 2
    normalise = MacenkoNormalize(fit_macenko(vips(tissue)))
    same, changed = (normalise(vips(one)).numpy().astype(int) for one in (tissue, other))
    assert np.abs(same - changed).mean() < 1
    reinhard = ReinhardNormalize(fit_reinhard(vips(tissue)))
    again, moved = (reinhard(vips(one)).numpy().astype(int) for one in (tissue, other))
    np.testing.assert_allclose(again, tissue, atol=1)
    assert np.abs(moved - tissue).mean() < np.abs(other.astype(int) - tissue).mean() / 1.5


def test_reinhard_gives_the_targets_mean_and_spread(tissue):
    target = fit_reinhard(vips(restained(tissue)))
    got = fit_reinhard(ReinhardNormalize(target)(vips(tissue)))
    np.testing.assert_allclose(got.mean, target.mean, atol=0.03)
    np.testing.assert_allclose(got.std, target.std, rtol=0.1)


def test_reinhard_is_the_published_formula(tissue):
    rgb_to_lms = np.array([[0.3811, 0.5783, 0.0402], [0.1967, 0.7244, 0.0782], [0.0241, 0.1288, 0.8444]])
    dense = tissue[(-np.log((tissue + 1.0) / 256)).mean(axis=2) > 0.15]
    logs = np.log((dense + 1.0) / 256 @ rgb_to_lms.T)
    long, medium, short = logs.T
    lab = np.stack([logs.sum(axis=1) / 3**0.5, (long + medium - 2 * short) / 6**0.5, (long - medium) / 2**0.5], axis=1)
    fit = fit_reinhard(vips(tissue))
    np.testing.assert_allclose(fit.mean, lab.mean(axis=0), atol=1e-9)
    np.testing.assert_allclose(fit.std, lab.std(axis=0), atol=1e-9)
    target = ColorFit((-1.2, 0.05, 0.02), (0.5, 0.05, 0.02))
    moved = (lab - fit.mean) * np.divide(target.std, fit.std) + target.mean
    light, yellow, red = moved[:, 0] / 3**0.5, moved[:, 1] / 6**0.5, moved[:, 2] / 2**0.5
    lms = np.exp(np.stack([light + yellow + red, light + yellow - red, light - 2 * yellow], axis=1))
    expected = np.clip(lms @ np.linalg.inv(rgb_to_lms).T * 256 - 1, 0, 255)
    got = ReinhardNormalize(target)(vips(tissue)).numpy()
    sure = (-np.log((dense + 1.0) / 256)).mean(axis=1) > 0.2  # the weight of paler pixels is less than 1
    assert sure.mean() > 0.5
    dense_now = got[(-np.log((tissue + 1.0) / 256)).mean(axis=2) > 0.15]
    assert np.abs(dense_now - expected)[sure].max() <= 0.75


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_glass_and_white_stay_as_they_are(tissue, kind):
    pixels = tissue.copy()
    pixels[:100, :100] = np.arange(244, 254).repeat(10)[:, None]
    pixels[:50, :50] = 255
    pixels = (pixels.astype(kind) * (257 if kind == np.uint16 else 1)).astype(kind)
    for transform in (MacenkoNormalize(), ReinhardNormalize(ColorFit((-1.2, 0.05, 0.02), (0.5, 0.05, 0.02)))):
        got = transform(vips(pixels)).numpy()
        assert got.dtype == kind
        assert (got[:50, :50] == np.iinfo(kind).max).all()
        assert np.abs(got[:100, :100].astype(int) - pixels[:100, :100]).max() <= 1
        assert (got != pixels).mean() > 0.1


def test_depth_of_pixels_does_not_change_the_fit(tissue):
    wide = tissue.astype(np.uint16) * 257
    for fit in (fit_macenko, fit_reinhard):
        narrow, deep = fit(vips(tissue)), fit(vips(wide))
        for name in vars(narrow):
            np.testing.assert_allclose(getattr(narrow, name), getattr(deep, name), rtol=0.05, atol=0.02)


@pytest.mark.parametrize("make", [MacenkoNormalize, lambda **o: ReinhardNormalize(ColorFit((0, 0, 0), (1, 1, 1)), **o)])
def test_blank_pictures_are_refused_or_kept(make):
    blank = np.full((64, 64, 3), 240, np.uint8)
    with pytest.raises(BlankImageError, match=r"0 are stained, and at least 500 .*pass on_blank='keep'"):
        make()(vips(blank))
    np.testing.assert_array_equal(make(on_blank="keep")(vips(blank)).numpy(), blank)
    with pytest.raises(TransformError, match="on_blank='skip' is not one of raise, keep"):
        make(on_blank="skip")


def test_one_colour_is_not_two_stains():
    flat = np.full((64, 64, 3), (200, 100, 150), np.uint8)
    with pytest.raises(BlankImageError, match="one color only"):
        fit_reinhard(vips(flat))
    with pytest.raises(BlankImageError, match="one stain only"):
        fit_macenko(vips(flat))


def test_large_pictures_are_sampled_evenly_and_lazily():
    huge = pyvips.Image.xyz(60_000, 40_000).linear(1 / 256, 0).cast("uchar")
    pixels = sample_pixels(huge)
    assert pixels.shape == (16 * 16 * BLOCK_PX**2, 2)
    x = np.unique(pixels[:, 0])
    assert x.min() == 0
    assert x.max() == 59_999 // 256
    narrow = pyvips.Image.black(40, 60_000, bands=3)
    assert sample_pixels(narrow).shape == (16 * BLOCK_PX * 40 if 40 * 60_000 > 1024**2 else 40 * 60_000, 3)


def test_fits_survive_json(tissue):
    for fit in (fit_macenko(vips(tissue)), fit_reinhard(vips(tissue))):
        assert type(fit).from_json(fit.to_json()) == fit
    for text in ("{}", "[]", "stains", '{"mean": 1}'):
        with pytest.raises(TransformError, match="no JSON of a StainFit"):
            StainFit.from_json(text)


def test_earlier_names_are_the_same_classes():
    from wsidata import transforms

    assert transforms.MacenkoNormalise is transforms.MacenkoNormalize
    assert transforms.ReinhardNormalise is transforms.ReinhardNormalize
    assert transforms.ColourFit is transforms.ColorFit
