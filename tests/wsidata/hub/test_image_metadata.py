import struct
import zlib

import numpy as np
import pytest
import pyvips
import tifffile
from PIL import Image, PngImagePlugin

from wsidata.hub.export.encoding import encode
from wsidata.hub.image_metadata import metadata_in
from wsidata.hub.manifest import Encoding

PIXELS = np.random.default_rng(0).integers(0, 256, (70, 90, 3), dtype=np.uint8)


@pytest.mark.parametrize("kind", ["png", "jpeg", "tiff", "tiff-jpeg", "original"])
@pytest.mark.parametrize("bands", [1, 3])
def test_what_is_encoded_here_holds_pixels_only(tmp_path, kind, bands):
    image = pyvips.Image.new_from_array(PIXELS[..., :bands].copy()).copy(interpretation="srgb" if bands == 3 else "b-w")
    quality = 90 if "jpeg" in kind else None
    made = encode(image, tmp_path / "a", Encoding(kind, quality), name="a", mpp=(0.5, 0.5))
    assert metadata_in(made.path) is None
    assert metadata_in(made.path.read_bytes()) is None


def test_sixteen_bits_and_an_original_photo_hold_pixels_only(tmp_path):
    deep = pyvips.Image.new_from_array(PIXELS.astype(np.uint16) * 257).copy(interpretation="rgb16")
    for kind in ("png", "tiff"):
        assert metadata_in(encode(deep, tmp_path / kind, Encoding(kind), name="a").path) is None
    exif = Image.Exif()
    exif[0x013B] = "Jane Doe"
    Image.fromarray(PIXELS).save(tmp_path / "photo.jpg", exif=exif, comment="Jane Doe", progressive=True)
    photo = pyvips.Image.new_from_file(str(tmp_path / "photo.jpg"))
    made = encode(photo, tmp_path / "o", Encoding("original"), name="photo", original=tmp_path / "photo.jpg")
    assert made.path.suffix == ".jpg"
    assert metadata_in(made.path) is None
    assert "bytes of metadata" in metadata_in(tmp_path / "photo.jpg")


def png_with(kind, content):
    text = PngImagePlugin.PngInfo()
    if kind == "tEXt":
        text.add_text("Author", content)
    elif kind == "iTXt":
        text.add_itxt("Author", content)
    return {"pnginfo": text}


@pytest.mark.parametrize("kind", ["tEXt", "iTXt"])
def test_text_in_png_is_found(tmp_path, kind):
    Image.fromarray(PIXELS).save(tmp_path / "a.png", **png_with(kind, "jane"))
    assert f"'{kind}'" in metadata_in(tmp_path / "a.png")


def test_text_after_the_pixels_of_png_is_found(tmp_path):
    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    content = (tmp_path / "a.png").read_bytes()
    body = b"tEXtAuthor\0jane"
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    assert "'tEXt'" in metadata_in(content[:-12] + chunk + content[-12:])
    assert metadata_in(content + b"jane") == "4 bytes after its end"
    assert metadata_in(content[:-20]) == "no end"


@pytest.mark.parametrize("options", [{"comment": b"jane"}, {"icc_profile": b"x" * 200}, {"xmp": b"<x/>"}])
def test_metadata_of_jpeg_is_found(tmp_path, options):
    Image.fromarray(PIXELS).save(tmp_path / "a.jpg", **options)
    assert "bytes of metadata" in metadata_in(tmp_path / "a.jpg")
    Image.fromarray(PIXELS).save(tmp_path / "b.jpg")
    assert metadata_in(tmp_path / "b.jpg") is None
    assert "bytes of metadata" in metadata_in((tmp_path / "b.jpg").read_bytes() + b"jane")


@pytest.mark.parametrize("options", [{"description": "jane"}, {"software": "x"}, {"datetime": True}, {"artist": "j"}])
def test_texts_of_tiff_are_found(tmp_path, options):
    extra = [(315, 2, 0, options.pop("artist"), True)] if "artist" in options else []
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        plain = {"photometric": "rgb", "metadata": None, "software": False}
        file.write(PIXELS, **plain)
        file.write(PIXELS, **{**plain, **options, "extratags": extra})
    assert "directory 1" in metadata_in(tmp_path / "a.tif")


def test_other_files_are_found():
    assert metadata_in(b"RIFF....WEBP") == "neither PNG, JPEG nor TIFF"
