import numpy as np
import pytest
import pyvips
from scipy.ndimage import correlate1d, gaussian_filter

from wsidata.transforms.base import TransformError
from wsidata.transforms.color.tone import Blur, GaussianBlur, ToneCurve, ToneJitter, gaussian_kernel

vips = pyvips.Image.new_from_array


def noise(dtype=np.uint8, shape=(60, 70, 3)):
    top = np.iinfo(dtype).max
    return np.random.default_rng(0).integers(0, top, shape, dtype, endpoint=True)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_tone_curve_is_its_formula(dtype):
    pixels, top = noise(dtype), np.iinfo(dtype).max
    curve = ToneCurve((0.1, 0.0, -0.05), (1.2, 0.9, 1.0), (1.0, 1.1, 0.8))
    x = pixels / top
    y = np.array(curve.contrast) * (x ** np.array(curve.gamma) - 0.5) + 0.5 + np.array(curve.brightness)
    got = curve.image(vips(pixels)).numpy()
    assert got.dtype == dtype
    np.testing.assert_array_equal(got, np.rint(np.clip(y, 0, 1) * top))


def test_tone_of_nothing_changes_nothing():
    for dtype in (np.uint8, np.uint16):
        for shape in ((9, 9), (9, 9, 3), (9, 9, 5)):
            pixels = noise(dtype, shape)
            unchanged = ToneJitter(0, 0, 0)(vips(pixels), np.random.default_rng(0))
            np.testing.assert_array_equal(unchanged.numpy(), pixels)


def test_tone_is_drawn_within_its_ranges_for_all_bands_or_each():
    generator = np.random.default_rng(0)
    image = vips(noise())
    curves = [ToneJitter(0.1, 0.2, 0.25).draw(image, generator) for _ in range(300)]
    assert all(len(set(curve.gamma)) == 1 for curve in curves)
    for name, low, high in (("brightness", -0.1, 0.1), ("contrast", 0.8, 1.2), ("gamma", 1 / 1.25, 1.25)):
        values = [getattr(curve, name)[0] for curve in curves]
        assert low <= min(values) < low + 0.02
        assert high - 0.02 < max(values) <= high
    assert len(set(ToneJitter(per_band=True).draw(image, generator).contrast)) == 3


@pytest.mark.parametrize(
    "sigma", [0.2, 0.4, 0.6, 0.8, 1.0, 1.3, 1.7, 1.99, 2.0, 2.5, 3.0, 3.9, 4.0, 6.0, 9.0, 12.0, 16.0]
)
def test_blur_keeps_brightness_and_is_gaussian(sigma):
    for level in (1, 77, 128, 200, 254, 255):
        flat = np.full((40, 40, 3), level, np.uint8)
        assert (GaussianBlur(sigma).image(vips(flat)).numpy() == level).all()
    pixels = noise(shape=(150, 150, 3))
    smooth = np.rint(gaussian_filter(pixels.astype(float), (3, 3, 0)) * 4 - 380).clip(0, 255).astype(np.uint8)
    got = GaussianBlur(sigma).image(vips(smooth)).numpy().astype(float)
    expected = gaussian_filter(smooth.astype(float), (sigma, sigma, 0), mode="nearest", truncate=6)
    assert np.abs((got - expected).mean()) < 0.2
    assert np.abs(got - expected).max() < 3.5


@pytest.mark.parametrize("sigma", [0.7, 1.5, 3.0])
def test_16_bit_blur_is_the_kernel_to_rounding(sigma):
    pixels = noise(np.uint16)
    weights = gaussian_kernel(sigma, 4096) / 4096
    expected = correlate1d(correlate1d(pixels.astype(float), weights, 0, mode="nearest"), weights, 1, mode="nearest")
    got = GaussianBlur(sigma).image(vips(pixels)).numpy()
    assert got.dtype == np.uint16
    assert np.abs(got - expected).max() <= 2


def test_kernels_are_symmetric_add_up_and_have_no_zeros():
    for sigma in np.linspace(0, 16, 200):
        for total in (64, 128, 256, 4096):
            kernel = gaussian_kernel(sigma, total)
            assert kernel.sum() == total
            assert (kernel == kernel[::-1]).all()
            assert (kernel > 0).all()
            assert kernel[len(kernel) // 2] >= kernel.max() - 1


def test_no_blur_is_the_picture_itself():
    pixels = noise()
    np.testing.assert_array_equal(Blur(0.0)(vips(pixels), np.random.default_rng(0)).numpy(), pixels)


def test_colours_leave_the_alpha_of_nothing_and_floats_are_refused():
    for transform in (ToneJitter(), Blur()):
        with pytest.raises(TransformError, match=f"{type(transform).__name__} needs an 8- or 16-bit image.*'float'"):
            transform(vips(np.zeros((4, 4, 3), np.float32)), np.random.default_rng(0))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: ToneJitter(contrast=1.0), "contrast=1.0 must be below 1"),
        (lambda: ToneJitter(gamma=-0.1), "gamma=-0.1"),
        (lambda: Blur(20), "at most 16"),
        (lambda: Blur((2, 1)), r"sigma_px=\(2, 1\)"),
        (lambda: Blur(p=-1), "p=-1"),
    ],
)
def test_arguments_are_checked(make, words):
    with pytest.raises(TransformError, match=words):
        make()
