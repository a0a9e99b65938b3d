import errno
import resource

import numpy as np
import pytest
import pyvips
import tifffile

from wsidata.errors import UnreadableImageError, UnsupportedImageError
from wsidata.formats.vips import TileSource
from wsidata.hub.export.encoding import choose_encoding, encode
from wsidata.hub.manifest import Encoding
from wsidata.slides.slide import Slide


def made_image(width=90, height=70, bands=3, dtype=np.uint8):
    limit = np.iinfo(dtype).max
    pixels = np.random.default_rng(0).integers(0, limit, (height, width, bands), dtype=dtype)
    return pyvips.Image.new_from_array(pixels, interpretation="srgb" if dtype == np.uint8 else "rgb16")


def secretive(image):
    """With metadata of a scanner and a camera."""
    image = image.copy()
    for name in ("image-description", "exif-ifd0-Artist", "aperio.Patient"):
        image.set_type(pyvips.GValue.gstr_type, name, "Jane Doe")
    image.set_type(pyvips.GValue.blob_type, "icc-profile-data", b"Jane Doe profile")
    image.set_type(pyvips.GValue.blob_type, "xmp-data", b"<xmp>Jane Doe</xmp>")
    return image


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, Encoding("png")),
        ({"lazy": True}, Encoding("tiff")),
        ({"photos": True}, Encoding("original")),
        ({"image_format": "jpeg"}, Encoding("jpeg", 90)),
        ({"image_format": "tiff-jpeg", "quality": 80}, Encoding("tiff-jpeg", 80)),
    ],
)
def test_default_encodings_are_lossless(options, expected):
    wish = {"image_format": None, "quality": None, "lazy": False, "photos": False} | options
    assert choose_encoding(wish.pop("image_format"), wish.pop("quality"), **wish) == expected


@pytest.mark.parametrize(
    ("image_format", "quality", "message"),
    [
        ("webp", None, "not one of"),
        ("png", 90, "is lossless"),
        ("jpeg", 101, "1 to 100"),
        ("original", None, "photo"),
    ],
)
def test_invalid_encodings_are_refused(image_format, quality, message):
    with pytest.raises(ValueError, match=message):
        choose_encoding(image_format, quality, lazy=False, photos=False)


@pytest.mark.parametrize(
    ("kind", "bands", "dtype"),
    [
        ("png", 1, np.uint8), ("png", 3, np.uint8), ("png", 3, np.uint16),
        ("tiff", 3, np.uint8), ("tiff", 5, np.uint8), ("tiff", 3, np.uint16),
    ],
)  # fmt: skip
def test_lossless_formats_preserve_every_pixel(tmp_path, kind, bands, dtype):
    image = made_image(bands=bands, dtype=dtype)
    made = encode(image, tmp_path / "deep" / "x", Encoding(kind), name="x")
    back = pyvips.Image.new_from_file(str(made.path)).numpy()
    np.testing.assert_array_equal(back.reshape(70, 90, bands), image.numpy().reshape(70, 90, bands))
    assert (made.width, made.height, made.size_bytes) == (90, 70, made.path.stat().st_size)
    assert [path.name for path in made.path.parent.iterdir()] == [made.path.name]


@pytest.mark.parametrize("kind", ["png", "jpeg", "tiff", "tiff-jpeg"])
def test_descriptions_exif_and_profiles_are_never_written(tmp_path, kind):
    made = encode(
        secretive(made_image()), tmp_path / "x", Encoding(kind, None if kind in ("png", "tiff") else 90), name="x"
    )
    content = made.path.read_bytes()
    assert not any(word in content for word in (b"Jane", b"profile", b"xmp", b"Exif", b"iCCP"))


def test_jpeg_has_the_requested_quality(tmp_path):
    sizes = [
        encode(made_image(), tmp_path / str(quality), Encoding("jpeg", quality), name="x").size_bytes
        for quality in (30, 60, 95)
    ]
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[2] / 2


@pytest.mark.parametrize("kind", ["tiff", "tiff-jpeg"])
def test_tiff_is_a_tiled_pyramid_with_its_resolution(tmp_path, kind):
    image = made_image(1500, 1100).gaussblur(3)
    made = encode(image, tmp_path / "x", Encoding(kind, None if kind == "tiff" else 95), name="x", mpp=(0.5, 0.5))
    with tifffile.TiffFile(made.path) as tiff:
        assert tiff.is_bigtiff
        assert tiff.pages[0].is_tiled
        assert "ImageDescription" not in tiff.pages[0].tags
    with Slide(made.path) as slide:
        assert slide.mpp == pytest.approx((0.5, 0.5))
        assert [(level.width, level.height) for level in slide.levels] == [(1500, 1100), (750, 550), (375, 275)]
        difference = np.abs(slide.numpy().astype(int) - image.numpy().astype(int)).max()
    assert difference == 0 if kind == "tiff" else difference < 30


def test_print_density_does_not_become_a_resolution(tmp_path):
    made = encode(made_image().copy(xres=11.8, yres=11.8), tmp_path / "x", Encoding("tiff"), name="x")
    with Slide(made.path) as slide:
        assert slide.mpp is None


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "quality"), [("png", None), ("jpeg", 90)])
def test_images_too_large_for_jpeg_become_pyramids(tmp_path, kind, quality):
    made = encode(made_image(70_000, 2), tmp_path / "x", Encoding(kind, quality), name="x")
    assert made.path.suffix == ".tif"
    assert made.width == 70_000


@pytest.mark.parametrize(("kind", "image"), [("png", made_image(bands=5)), ("jpeg", made_image(dtype=np.uint16)),
                                             ("tiff", made_image().cast("float"))])  # fmt: skip
def test_images_a_format_cannot_hold_are_refused(tmp_path, kind, image):
    with pytest.raises(UnsupportedImageError, match="cannot hold unchanged"):
        encode(image, tmp_path / "x", Encoding(kind, 90 if kind == "jpeg" else None), name="x")
    assert not list(tmp_path.iterdir())


def test_damaged_slide_leaves_no_file(tmp_path):
    def decode(x, y, width, height):
        if y:
            raise UnreadableImageError("tile 3 is damaged")
        return np.zeros((height, width, 3), np.uint8)

    source = TileSource((512, 512), (256, 256), decode)
    with pytest.raises(UnreadableImageError, match=r"'slide.tif' could not be decoded whole: .*tile 3 is damaged"):
        encode(source.image(), tmp_path / "x", Encoding("png"), name="slide.tif")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["png", "jpeg", "tiff", "tiff-jpeg"])
def test_full_disk_is_distinguished_from_a_damaged_image(tmp_path, kind):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(OSError, match="could not be written") as caught:
            encode(made_image(300, 300), tmp_path / "x", Encoding(kind, 90 if "jpeg" in kind else None), name="x")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.errno == errno.ENOSPC
    assert not list(tmp_path.iterdir())
