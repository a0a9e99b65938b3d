"""Photos of all formats are upright, in sRGB and of the requested size, or raise."""

import io

import cv2
import imagecodecs
import numpy as np
import pytest
import pyvips
import simplejpeg
from PIL import Image
from places import PHOTOS

from wsidata.errors import SlideError, UnreadableImageError, UnsupportedImageError
from wsidata.photos import read as decoding
from wsidata.photos.read import SHRINK_MARGIN, decode_photo, photo_size, read_photo
from wsidata.photos.resize import resize, size_with_short_side

real_photos = pytest.mark.skipif(not PHOTOS.is_dir(), reason="the real photos are not here")

COLORS = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
PIXELS = cv2.resize(COLORS, (80, 60), interpolation=cv2.INTER_CUBIC)
GRAY = np.repeat(PIXELS[..., :1], 3, axis=2)
ALPHA = np.where(np.arange(80) < 40, 0, 255).astype(np.uint8)[None].repeat(60, axis=0)
ON_WHITE = np.where(ALPHA[..., None] == 0, np.uint8(255), PIXELS)


def difference(found, expected):
    assert found.shape == expected.shape
    return int(np.abs(found.astype(int) - expected).max())


def psnr(found, expected):
    """Peak signal-to-noise ratio in dB."""
    return 10 * np.log10(255**2 / np.mean((found.astype(float) - expected) ** 2))


def zone_plate(side):
    """Rings that get finer outwards, up to the finest there can be at the rim."""
    rows, columns = np.indices((side, side)) - side / 2
    rings = 127.5 + 127.5 * np.cos(np.pi * (rows**2 + columns**2) / side)
    return np.repeat(rings[..., None], 3, axis=2).astype(np.uint8)


# Formats


@pytest.mark.parametrize("name", ["a.png", "a.webp", "a.bmp", "a.tif", "lzw.tif"])
def test_lossless_kinds_come_back(tmp_path, name):
    options = {"lzw.tif": {"compression": "tiff_lzw"}, "a.webp": {"lossless": True}}.get(name, {})
    Image.fromarray(PIXELS).save(tmp_path / name, **options)
    found = read_photo(tmp_path / name)
    assert difference(found, PIXELS) == 0
    assert found.flags.c_contiguous
    assert photo_size(tmp_path / name) == (60, 80)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": "4:2:0"}, {"restart_marker_rows": 1}])
def test_jpegs_are_libjpeg_turbos(tmp_path, options):
    path = tmp_path / "a.jpg"
    Image.fromarray(PIXELS).save(path, quality=95, **options)
    assert difference(read_photo(path), np.asarray(Image.open(path))) == 0
    assert photo_size(path) == (60, 80)


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.bmp", "a.tif", "a.webp"])
@pytest.mark.parametrize("mode", ["L", "1", "P"])
def test_gray_black_and_white_and_palettes(tmp_path, name, mode):
    image = Image.fromarray(PIXELS).convert(mode)
    if name == "a.jpg" or (name == "a.webp" and mode != "P"):
        image = image.convert("L")
    elif name == "a.webp":
        image = image.convert("RGB")
    image.save(tmp_path / name, **({"lossless": True} if name == "a.webp" else {"quality": 100}))
    expected = np.asarray(Image.open(tmp_path / name).convert("RGB"))
    assert difference(read_photo(tmp_path / name), expected) == 0


def test_gif_shows_its_first_frame(tmp_path):
    first, second = (Image.fromarray(one).quantize(64) for one in (PIXELS, 255 - PIXELS))
    first.save(tmp_path / "a.gif", save_all=True, append_images=[second])
    assert difference(read_photo(tmp_path / "a.gif"), np.asarray(first.convert("RGB"))) == 0


@pytest.mark.parametrize("name", ["rgba.png", "rgba.webp", "deep.png", "gray.png", "palette.png"])
def test_transparency_is_composited_on_white(tmp_path, name):
    path = tmp_path / name
    expected = ON_WHITE
    if name == "gray.png":
        Image.fromarray(np.dstack([PIXELS[..., 0], ALPHA])).save(path)
        expected = np.where(ALPHA[..., None] == 0, np.uint8(255), GRAY)
    elif name == "deep.png":
        deep = np.dstack([PIXELS[..., ::-1], ALPHA]).astype(np.uint16) * 257
        cv2.imwrite(str(path), deep)
    elif name == "palette.png":
        image = Image.fromarray(PIXELS).quantize(16)
        image.save(path, transparency=0)
        holes = np.asarray(image)[..., None] == 0
        expected = np.where(holes, np.uint8(255), np.asarray(image.convert("RGB")))
    else:
        Image.fromarray(np.dstack([PIXELS, ALPHA])).save(path, lossless=True)
    assert difference(read_photo(path), expected) == 0


@pytest.mark.parametrize("name", ["a.png", "a.tif", "gray.png"])
def test_16_bits_are_scaled_from_their_full_range(tmp_path, name):
    values = np.random.default_rng(1).integers(0, 65_536, (60, 80, 3), dtype=np.uint16)
    values = values[..., 0] if name == "gray.png" else values
    cv2.imwrite(str(tmp_path / name), values)
    expected = np.rint(values.reshape(60, 80, -1) / 257.0)[..., ::-1]
    assert difference(read_photo(tmp_path / name), np.broadcast_to(expected, (60, 80, 3))) == 0


@pytest.mark.parametrize("stored", ["CMYK", "YCCK"])
def test_cmyk_is_converted_by_a_press_profile(tmp_path, stored):
    """Adobe programs, and Pillow, store ink upside down; a marker says so."""
    path = tmp_path / "a.jpg"
    ink = np.ascontiguousarray(np.asarray(Image.fromarray(PIXELS).convert("CMYK")))
    ink = np.ascontiguousarray(np.dstack([ink[..., :3], np.full((60, 80), 40, np.uint8)]))
    data = imagecodecs.jpeg8_encode(255 - ink, level=100, colorspace="CMYK", outcolorspace=stored)
    path.write_bytes(data)
    np.testing.assert_allclose(np.asarray(Image.open(io.BytesIO(data))), ink, atol=12)
    printed = pyvips.Image.new_from_array(ink).copy(interpretation="cmyk")
    expected = printed.icc_transform("srgb", input_profile="cmyk").numpy()
    found = read_photo(path)
    assert np.abs(found.astype(int) - expected).mean() < 3
    assert psnr(found, np.asarray(Image.open(path).convert("RGB"))) > 12  # upside down it would be below 8
    assert photo_size(path) == (60, 80)
    assert read_photo(path, short_side_px=30).shape == (30, 40, 3)


def test_rgb_jpeg_is_not_taken_for_ycbcr(tmp_path):
    path = tmp_path / "a.jpg"
    path.write_bytes(imagecodecs.jpeg8_encode(PIXELS, level=100, colorspace="RGB", outcolorspace="RGB"))
    assert difference(read_photo(path), PIXELS) < 4


def test_the_format_follows_the_content_not_the_name(tmp_path):
    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    Image.fromarray(PIXELS).save(tmp_path / "a.jpg", quality=95)
    for name, other in (("a.png", "really_png.jpg"), ("a.jpg", "really_jpg.png"), ("a.jpg", "really_jpg.tif")):
        (tmp_path / other).write_bytes((tmp_path / name).read_bytes())
        assert difference(read_photo(tmp_path / other), read_photo(tmp_path / name)) == 0
        assert photo_size(tmp_path / other) == (60, 80)


# Orientation and colors


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("short_side_px", [None, 30])
def test_orientation_is_applied_once(tmp_path, name, orientation, short_side_px):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 95} if name == "a.jpg" else {"lossless": True}
    Image.fromarray(PIXELS).save(tmp_path / name, exif=exif, **options)
    Image.fromarray(PIXELS).save(tmp_path / f"stored_{name}", **options)
    image = pyvips.Image.new_from_array(read_photo(tmp_path / f"stored_{name}", short_side_px=short_side_px)).copy()
    image.set_type(pyvips.GValue.gint_type, "orientation", orientation)
    found = read_photo(tmp_path / name, short_side_px=short_side_px)
    # Not JPEG is turned first and resized then, which rounds another way.
    assert difference(found, image.autorot().numpy()) <= (name != "a.jpg" and short_side_px is not None)
    assert photo_size(tmp_path / name) == ((80, 60) if orientation >= 5 else (60, 80))


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.tif", "a.webp"])
def test_a_profile_is_applied_unless_that_is_switched_off(tmp_path, name):
    profile = bytes(pyvips.Image.profile_load("p3"))
    image = pyvips.Image.new_from_array(PIXELS).copy(interpretation="srgb")
    displayed = image.icc_transform("p3", input_profile="srgb").numpy()
    options = {"quality": 100, "subsampling": 0} if name == "a.jpg" else {}
    Image.fromarray(displayed).save(
        tmp_path / name, icc_profile=profile, **({"lossless": True} if name == "a.webp" else options)
    )
    inside = (PIXELS > 40).all(2) & (PIXELS < 215).all(2)  # colors beyond sRGB are clipped
    found = read_photo(tmp_path / name)
    assert np.abs(found.astype(int) - PIXELS)[inside].mean() < 2
    stored = read_photo(tmp_path / name, apply_icc=False)
    assert np.abs(stored.astype(int) - displayed).mean() < 1
    assert np.abs(stored.astype(int) - PIXELS)[inside].mean() > 5


# Sizes


def test_a_photo_made_smaller_without_shrinking_is_pillows(tmp_path):
    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    expected = Image.fromarray(PIXELS).resize((40, 30), Image.Resampling.BILINEAR)
    assert difference(read_photo(tmp_path / "a.png", short_side_px=30), np.asarray(expected)) <= 1


@pytest.mark.parametrize("name", ["a.jpg", "a.png"])
def test_smaller_photos_are_enlarged(tmp_path, name):
    Image.fromarray(PIXELS).save(tmp_path / name, quality=95)
    found = read_photo(tmp_path / name, short_side_px=90)
    whole = Image.fromarray(read_photo(tmp_path / name))
    assert difference(found, np.asarray(whole.resize((120, 90), Image.Resampling.BILINEAR))) <= 1


@pytest.mark.parametrize("size", [(600, 813), (811, 600), (1199, 641)])
@pytest.mark.parametrize("short_side_px", [30, 37, 74, 149, 150])
def test_shrinking_on_load_moves_nothing(tmp_path, size, short_side_px):
    """A bright spot near the far corner is where it is without; half a pixel of stretching would show."""
    pixels = np.zeros((*size, 3), np.uint8)
    at = size[0] - 40, size[1] - 40
    cv2.circle(pixels, at[::-1], 24, (255, 255, 255), -1)
    path = tmp_path / "a.jpg"
    path.write_bytes(simplejpeg.encode_jpeg(pixels, quality=95))
    found = read_photo(path, short_side_px=short_side_px).astype(float).sum(2)
    scale = np.array(found.shape) / size
    rows, columns = np.indices(found.shape)
    center = np.array([(found * rows).sum(), (found * columns).sum()]) / found.sum()
    np.testing.assert_allclose(center, (np.array(at) + 0.5) * scale - 0.5, atol=0.04)


def whole_then_resized(path, short_side_px):
    pixels = read_photo(path, apply_icc=False)
    return resize(pixels, size_with_short_side(*pixels.shape[:2], short_side_px))


@pytest.mark.parametrize("short_side_px", [100, 128, 190, 250])
def test_a_camera_photo_differs_by_rounding_from_a_whole_decode(tmp_path, monkeypatch, short_side_px):
    """Soft at the level of pixels, with some noise: shrinking is seen to happen, and nothing else is."""
    rng = np.random.default_rng(short_side_px)
    blobs = [cv2.resize(rng.normal(size=(s, s, 3)), (1200, 1000), interpolation=cv2.INTER_CUBIC) for s in (4, 16, 64)]
    photo = 120 + 40 * blobs[0] + 15 * blobs[1] + 6 * blobs[2] + rng.normal(0, 2, (1000, 1200, 1))
    path = tmp_path / "a.jpg"
    path.write_bytes(simplejpeg.encode_jpeg(photo.clip(0, 255).astype(np.uint8), quality=90, colorsubsampling="420"))
    shrinks = []
    decode = decoding.decode_jpeg
    monkeypatch.setattr(decoding, "decode_jpeg", lambda *given: shrinks.append(given[3]) or decode(*given))
    found = read_photo(path, short_side_px=short_side_px)
    assert shrinks == [{100: 4, 128: 2, 190: 2, 250: 2}[short_side_px]]
    expected = whole_then_resized(path, short_side_px)
    assert psnr(found, expected) > 52
    assert difference(found, expected) <= 2


@pytest.mark.parametrize(("short_side_px", "shrink", "with_margin", "without"), [(200, 4, 39, 33), (400, 2, 34, 27)])
def test_a_zone_plate_needs_the_margin(tmp_path, short_side_px, shrink, with_margin, without):
    """A zone plate has every frequency there is; what is shrunk too far shows rings that are not there. In dB."""
    path = tmp_path / "a.jpg"
    path.write_bytes(simplejpeg.encode_jpeg(zone_plate(1600), quality=95, colorsubsampling="444"))
    assert short_side_px * SHRINK_MARGIN * shrink == 1600  # as near to the margin as can be
    expected = whole_then_resized(path, short_side_px)
    assert psnr(read_photo(path, short_side_px=short_side_px), expected) > with_margin
    least = simplejpeg.decode_jpeg(path.read_bytes(), min_height=short_side_px, min_width=short_side_px)
    assert least.shape == (short_side_px, short_side_px, 3)
    assert psnr(least, expected) < without


@pytest.mark.slow
@real_photos
def test_real_photos_shrunk_on_load_look_as_decoded_whole():
    found = {}
    for path in sorted(PHOTOS.glob("*.[jJ][pP][gG]"))[::8]:
        short = min(photo_size(path))
        for short_side_px in (short // 4, short // 8, short // 16, 64):
            shrunk = read_photo(path, short_side_px=short_side_px, apply_icc=False)
            found[path, short_side_px] = psnr(shrunk, whole_then_resized(path, short_side_px))
    worst, median = min(found.values()), float(np.median(list(found.values())))
    assert worst > 34
    assert median > 45


# Refusals


@pytest.mark.parametrize("short_side_px", [None, 30])
@pytest.mark.parametrize("name", ["a.jpg", "progressive.jpg", "a.png", "a.webp", "a.bmp", "a.tif", "cmyk.jpg"])
def test_files_that_were_cut_off_are_refused_by_name(tmp_path, name, short_side_px):
    image = Image.fromarray(np.random.default_rng(5).integers(0, 256, (160, 120, 3), dtype=np.uint8))
    image = image.convert("CMYK") if name.startswith("cmyk") else image
    options = {"lossless": True} if name == "a.webp" else {"progressive": True} if name.startswith("prog") else {}
    image.save(tmp_path / name, **options)
    data = (tmp_path / name).read_bytes()
    bad = tmp_path / f"bad_{name}"
    for length in (1, 3, 30, 200, len(data) // 2, len(data) - 30):
        bad.write_bytes(data[:length])
        with pytest.raises(UnreadableImageError, match=f"bad_{name}'"):
            read_photo(bad, short_side_px=short_side_px)


def test_files_that_are_empty_or_no_image_are_refused_by_name(tmp_path):
    for name, data in (("empty.jpg", b""), ("page.jpg", b"<html>404</html>"), ("zero.jpg", bytes(5000))):
        (tmp_path / name).write_bytes(data)
        for reads in (read_photo, photo_size):
            with pytest.raises(UnreadableImageError, match=rf"{name}'"):
                reads(tmp_path / name)
    for reads in (read_photo, photo_size):
        with pytest.raises(FileNotFoundError, match=r"absent\.jpg"):
            reads(tmp_path / "absent.jpg")


def test_jpegs_of_12_bits_and_floats_are_refused_by_name(tmp_path):
    deep = imagecodecs.jpeg_encode(PIXELS.astype(np.uint16) * 16, level=95, bitspersample=12)
    (tmp_path / "deep.jpg").write_bytes(deep)
    with pytest.raises(UnsupportedImageError, match=r"deep\.jpg' is a JPEG of 12 bits"):
        read_photo(tmp_path / "deep.jpg")
    cv2.imwrite(str(tmp_path / "float.tif"), PIXELS.astype(np.float32))
    with pytest.raises(UnsupportedImageError, match=r"float\.tif' holds"):
        read_photo(tmp_path / "float.tif")


@pytest.mark.parametrize("size", [(60_000, 40), (40, 60_000)])
def test_a_side_of_60000_pixels_is_read(tmp_path, size):
    path = tmp_path / "long.jpg"
    path.write_bytes(simplejpeg.encode_jpeg(np.full((*size, 3), 99, np.uint8), colorsubsampling="420"))
    assert photo_size(path) == size
    assert read_photo(path).shape == (*size, 3)
    small = read_photo(path, short_side_px=4)
    assert sorted(small.shape) == [3, 4, 6000]
    assert (small == 99).all()


def test_enormous_photos_are_refused_before_they_are_decoded(tmp_path):
    """60,000 x 60,000 pixels, by the header."""
    path = tmp_path / "vast.jpg"
    data = bytearray(simplejpeg.encode_jpeg(PIXELS))
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = (60_000).to_bytes(2) * 2
    path.write_bytes(data)
    assert photo_size(path) == (60_000, 60_000)
    with pytest.raises(UnsupportedImageError, match=r"vast\.jpg' has 60000x60000 pixels.*10\.8 GB.*short_side_px="):
        read_photo(path)
    with pytest.raises(UnsupportedImageError, match=r"would have 50000x50000"):
        read_photo(path, short_side_px=50_000)


@pytest.mark.parametrize("short_side_px", [0, -3])
def test_a_size_that_is_none_is_refused(tmp_path, short_side_px):
    with pytest.raises(ValueError, match=r"short_side_px=.* at least 1 pixel"):
        decode_photo(b"", tmp_path / "a.jpg", short_side_px=short_side_px)


def test_names_beyond_ascii(tmp_path):
    for name in ("gåsefot blå.jpg", "きのこ.png", "гриб.tif", "blank and\ttab.bmp"):
        Image.fromarray(PIXELS).save(tmp_path / name)
        assert read_photo(tmp_path / name).shape == (*photo_size(tmp_path / name), 3)
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:25])
        with pytest.raises(SlideError, match=name.partition(".")[0]):
            read_photo(tmp_path / name)


@real_photos
def test_real_photos_are_what_pillow_shows():
    for path in sorted(PHOTOS.glob("*.[jJ][pP][gG]"))[::20]:
        expected = np.asarray(Image.open(path).convert("RGB"))
        assert difference(read_photo(path, apply_icc=False), expected) == 0
        assert photo_size(path) == expected.shape[:2]
