"""Plain images (colors, orientation, damage)."""

import gzip

import numpy as np
import PIL.Image
import pytest
import pyvips
from PIL.PngImagePlugin import PngInfo

from wsidata.errors import ResolutionUnavailableError, SpacingUnknownError, UnreadableImageError, UnsupportedImageError
from wsidata.photos.read import read_photo
from wsidata.slides.slide import Slide

RGB = np.random.default_rng(6).integers(0, 255, (60, 80, 3), dtype=np.uint8)


def save(path, pixels, **options):
    pyvips.Image.new_from_array(pixels).write_to_file(str(path), **options)
    return path


@pytest.mark.parametrize(("suffix", "options"), [(".png", {}), (".webp", {"lossless": True})])
def test_lossless_photos_come_back(tmp_path, suffix, options):
    with Slide(save(tmp_path / f"a{suffix}", RGB, **options)) as slide:
        assert slide.level_count == 1
        assert (slide.kind, slide.reader) == (suffix[1:], "libvips")
        np.testing.assert_array_equal(slide.numpy(), RGB)
        np.testing.assert_array_equal(slide.read_region(70, 50, 20, 20)[:10, :10], RGB[50:, 70:])


def test_print_density_is_not_a_spacing(tmp_path):
    path = save(tmp_path / "a.jpg", RGB)
    with Slide(path) as slide:
        assert slide.mpp is None
        with pytest.raises(SpacingUnknownError, match=r"'a\.jpg'.*a jpeg photo has none.*mpp_override"):
            slide.image(mpp=1.0)
    with Slide(path, mpp_override=0.5) as slide:
        assert slide.image(mpp=1.0).width == 40
        with pytest.raises(ResolutionUnavailableError):
            slide.image(mpp=0.1)


def test_gray_and_transparent_photos(tmp_path):
    with Slide(save(tmp_path / "gray.png", RGB[..., 0])) as slide:
        np.testing.assert_array_equal(slide.numpy(), np.repeat(RGB[..., :1], 3, 2))
    alpha = np.zeros((60, 80, 1), np.uint8)
    alpha[:, 40:] = 255
    with Slide(save(tmp_path / "rgba.png", np.concatenate([RGB, alpha], 2))) as slide:
        pixels = slide.numpy()
        assert (pixels[:, :40] == 255).all()
        np.testing.assert_array_equal(pixels[:, 40:], RGB[:, 40:])


def test_ink_of_a_cmyk_jpeg_is_not_dropped(tmp_path):
    cmyk = np.zeros((64, 64, 4), np.uint8)
    cmyk[:, :32, 3] = 255
    path = tmp_path / "a.jpg"
    pyvips.Image.new_from_array(cmyk).copy(interpretation="cmyk").write_to_file(str(path), Q=95)
    with Slide(path) as slide:
        pixels = slide.numpy()
    assert pixels[:, :24].max() < 80
    assert pixels[:, 40:].min() > 240


def test_sixteen_bits_raise(tmp_path):
    path = save(tmp_path / "a.png", RGB.astype(np.uint16) * 257)
    with pytest.raises(UnsupportedImageError, match=r"'a\.png' holds ushort samples"):
        Slide(path)


def test_sixteen_bits_are_scaled_as_requested(tmp_path):
    path = save(tmp_path / "a.png", RGB.astype(np.uint16) * 257)
    with Slide(path, scale_to_8bit=(0, 65_535)) as slide:
        np.testing.assert_array_equal(slide.numpy(), RGB)
    gray = tmp_path / "gray.png"
    pyvips.Image.new_from_array(RGB[..., 0].astype(np.uint16) * 16).copy(interpretation="grey16").write_to_file(
        str(gray)
    )
    with Slide(gray, scale_to_8bit=(0, 4_080)) as slide:
        np.testing.assert_array_equal(slide.numpy(), np.repeat(RGB[..., :1], 3, 2))
    with Slide(save(tmp_path / "b.png", RGB), scale_to_8bit=(0, 100)) as slide:
        np.testing.assert_array_equal(slide.numpy(), RGB)


def test_a_photo_has_no_channels_to_choose(tmp_path):
    with pytest.raises(UnsupportedImageError, match=r"a\.png' is a photo.*Leave channels= out"):
        Slide(save(tmp_path / "a.png", RGB), channels=[0])


def test_color_profile_of_a_photo_is_exposed_and_applied_on_request(tmp_path):
    path = tmp_path / "a.png"
    plain = pyvips.Image.new_from_array(RGB).copy(interpretation="srgb")
    plain.icc_transform("p3", input_profile="srgb").write_to_file(str(path))
    stored = pyvips.Image.new_from_file(str(path)).numpy()
    with Slide(path) as slide:
        assert slide.icc_profile is not None
        np.testing.assert_array_equal(slide.numpy(), stored)
    with Slide(path, apply_icc=True) as slide:
        assert np.abs(slide.numpy().astype(int) - RGB).mean() < 3
        np.testing.assert_array_equal(slide.read_region(5, 6, 30, 20), slide.numpy()[6:26, 5:35])
    assert np.abs(stored.astype(int) - RGB).mean() > 3


def test_exif_orientation_is_applied_once(tmp_path):
    path = tmp_path / "a.jpg"
    image = pyvips.Image.new_from_array(RGB).copy()
    image.set_type(pyvips.GValue.gint_type, "orientation", 6)
    image.write_to_file(str(path), Q=100)
    upright = pyvips.Image.new_from_file(str(path)).rot90().numpy()
    with Slide(path) as slide:
        assert (slide.width, slide.height) == (60, 80)
        assert slide.numpy().shape == (80, 60, 3)
        np.testing.assert_array_equal(slide.numpy(), upright)
        assert "orientation" not in slide.image().get_fields() or slide.image().get("orientation") == 1


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
def test_cut_off_photo_raises_naming_the_file(tmp_path, suffix):
    data = save(tmp_path / f"whole{suffix}", RGB).read_bytes()
    cut = tmp_path / f"cut{suffix}"
    for length in range(1, len(data) - 2, max(1, len(data) // 40)):
        cut.write_bytes(data[:length])
        with pytest.raises(UnreadableImageError, match=rf"cut\{suffix}'"):
            Slide(cut).image()


def test_altered_png_raises(tmp_path):
    path = save(tmp_path / "a.png", RGB)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(UnreadableImageError, match=r"a\.png' could not be decoded"):
        Slide(path).image()


def test_pixels_of_a_jpeg_belong_to_the_caller(tmp_path):
    with Slide(save(tmp_path / "a.jpg", RGB)) as slide:
        assert slide.reader == "libjpeg-turbo"
        expected = slide.numpy().copy()
        for read in (slide.numpy, lambda: slide.read_region(0, 0, 80, 60), lambda: slide.read_region(3, 4, 20, 10)):
            read()[...] = 0
            np.testing.assert_array_equal(slide.numpy(), expected)
        image = slide.image()
        slide.numpy()[...] = 0
        np.testing.assert_array_equal(image.numpy(), expected)
    np.testing.assert_array_equal(image.numpy(), expected)  # closed since


def test_very_large_jpegs_are_decoded_by_libvips(tmp_path, monkeypatch):
    path = save(tmp_path / "a.jpg", RGB)
    with Slide(path) as slide:
        expected = slide.numpy()
    monkeypatch.setattr("wsidata.formats.plain_image.MAX_IN_MEMORY_BYTES", RGB.nbytes - 1)
    with Slide(path) as slide:
        assert (slide.kind, slide.reader) == ("jpeg", "libvips")
        np.testing.assert_array_equal(slide.numpy(), expected)


def test_the_extension_is_not_trusted(tmp_path):
    data = save(tmp_path / "a.png", RGB).read_bytes()
    (tmp_path / "a.tif").write_bytes(data)
    with Slide(tmp_path / "a.tif") as slide:
        assert slide.kind == "png"
        np.testing.assert_array_equal(slide.numpy(), RGB)


def test_names_that_libvips_takes_for_options_and_keywords_that_are_no_utf8(tmp_path):
    info = PngInfo()
    info.add_text("Größe", "x")
    for name in ("slide [1]", "slide [1].png", "a]"):
        PIL.Image.fromarray(RGB).save(tmp_path / name, format="PNG", pnginfo=info)
        with Slide(tmp_path / name) as slide:
            np.testing.assert_array_equal(slide.numpy(), RGB)


def test_gzip_raises_with_the_remedy(tmp_path):
    (tmp_path / "a.svs").write_bytes(gzip.compress(b"II*\0" + bytes(100)))
    with pytest.raises(UnreadableImageError, match=r"a\.svs' is compressed by gzip. Unpack it first"):
        Slide(tmp_path / "a.svs")


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.tif", "a.gif"])
@pytest.mark.parametrize(
    "content",
    [
        b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><rect width="5" height="5"/></svg>',
        b"1,2,3\n4,5,6\n",
        b"%PDF-1.4\n1 0 obj\n<< >>\nendobj\n",
        b"P6 2 2 255 123456789012",
        b"3 2\n1 2 3\n4 5 6\n",
    ],
)
def test_other_formats_under_the_name_of_an_image_are_refused(tmp_path, name, content):
    """libvips alone shows an SVG, a CSV or a matrix, whatever its name."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UnreadableImageError, match=rf"'.*{name}' is no image that can be read here"):
        Slide(tmp_path / name)
    with pytest.raises(UnreadableImageError, match=name):
        read_photo(tmp_path / name)


def test_libvips_own_format_under_the_name_of_an_image_is_refused(tmp_path):
    save(tmp_path / "a.v", RGB).rename(tmp_path / "a.jpg")
    with pytest.raises(UnreadableImageError, match=r"a\.jpg' is no image"):
        Slide(tmp_path / "a.jpg")
