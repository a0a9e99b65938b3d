"""What stands where an image should be is called by its name, and what is not supported is not called damaged."""

import gzip
import re
import subprocess
import warnings

import imagecodecs
import numpy as np
import PIL.Image
import pytest
import tifffile
import zarr

from wsidata import Slide
from wsidata.errors import UnreadableImageError, UnsupportedImageError
from wsidata.photos.read import read_photo

RGB = np.random.default_rng(5).integers(0, 256, (48, 64, 3), dtype=np.uint8)
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935\nsize 12345\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (POINTER, "is a Git LFS pointer.*git lfs pull"),
        (b"/annex/objects/SHA256E-s1--1.svs\n", "is a git-annex pointer.*git annex get"),
        (b"<!DOCTYPE html>\n<html>403 Forbidden", "is a web page.*download it again"),
        (b"PK\x03\x04" + bytes(40), "is a ZIP archive that was cut off"),
    ],
)
@pytest.mark.parametrize("name", ["a.svs", "a.tif", "a.jpg"])
def test_what_is_no_image_is_called_by_its_name(tmp_path, content, message, name):
    (tmp_path / name).write_bytes(content)
    for read in (Slide, read_photo):
        with pytest.raises(UnreadableImageError, match=rf"{name}' {message}"):
            read(tmp_path / name)


@pytest.mark.parametrize("name", ["a slide.tif", "a.tif.gz"])
def test_gzip_is_unpacked_as_the_error_says(tmp_path, name):
    tifffile.imwrite(tmp_path / "plain.tif", RGB, photometric="rgb")
    (tmp_path / name).write_bytes(gzip.compress((tmp_path / "plain.tif").read_bytes()))
    with pytest.raises(UnreadableImageError, match="compressed by gzip") as error:
        Slide(tmp_path / name)
    command = str(error.value).split("Unpack it first: ")[1]
    subprocess.run(command, shell=True, check=True)
    unpacked = tmp_path / ("a.tif" if name.endswith("gz") else "a slide-unpacked.tif")
    with Slide(unpacked) as slide:
        np.testing.assert_array_equal(slide.numpy(), RGB)


@pytest.mark.parametrize("address", ["ftp://host.org/a.svs", "file:///slides/a.svs", "zip://a.svs::https://host.org/b"])
def test_addresses_of_other_kinds_are_not_read(address):
    with pytest.raises(UnsupportedImageError, match=rf"'{address}' is an address of a kind.*Copy it to a local disk"):
        Slide(address)


def test_paths_that_are_not_there_are_missing(tmp_path):
    for path in (tmp_path / "a.svs", "C:/slides/a.svs".replace("C:", "."), "a:b.svs"):
        with pytest.raises(FileNotFoundError, match="does not exist"):
            Slide(path)


def test_folders_say_what_to_open(tmp_path):
    series, mirax, other = tmp_path / "series", tmp_path / "mirax", tmp_path / "other"
    for folder in (series, mirax, other):
        folder.mkdir()
    (series / "1.dcm").write_bytes(bytes(128) + b"DICM")
    (mirax / "Slidedat.ini").write_text("[GENERAL]")
    with pytest.raises(UnsupportedImageError, match=r"folder of DICOM files\. Open one of them, such as '.*1\.dcm'"):
        Slide(series)
    (series / "1.dcm").rename(series / "frame")
    with pytest.raises(UnsupportedImageError, match=r"folder of DICOM files\. Open one of them, such as '.*frame'"):
        Slide(series)
    with pytest.raises(UnsupportedImageError, match=r"data folder of a 3DHISTECH MRXS.*mirax\.mrxs'"):
        Slide(mirax)
    with pytest.raises(FileNotFoundError, match="a folder, and no OME-Zarr"):
        Slide(other)


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_an_array_is_not_the_slide(tmp_path, zarr_format):
    root = zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=zarr_format)
    root.create_array("0", shape=(64, 64), chunks=(32, 32), dtype="u1")
    with pytest.raises(UnsupportedImageError, match=r"single Zarr array \(64, 64\).*which holds it: '.*a\.zarr'"):
        Slide(tmp_path / "a.zarr" / "0")


@pytest.mark.parametrize("version", ["0.6", "0.6.dev2", "1.0"])
def test_later_versions_of_ome_zarr_are_not_guessed_at(tmp_path, version):
    root = zarr.open_group(tmp_path / "a.zarr", mode="w")
    root.create_array("0", shape=(3, 64, 64), chunks=(1, 64, 64), dtype="u1")
    systems = [{"name": "physical", "axes": [{"name": name, "type": "space"} for name in "cyx"]}]
    scale = {"type": "scale", "scale": [1.0, 0.5, 0.5], "input": "0", "output": "physical"}
    multiscale = {"coordinateSystems": systems, "datasets": [{"path": "0", "coordinateTransformations": [scale]}]}
    root.attrs["ome"] = {"version": version, "multiscales": [multiscale]}
    with pytest.raises(UnsupportedImageError, match=rf"is OME-Zarr {version}, which is not read here.*0\.4 or 0\.5"):
        Slide(tmp_path / "a.zarr")


def test_jpeg_ls_is_not_a_damaged_jpeg(tmp_path):
    (tmp_path / "a.jls").write_bytes(imagecodecs.jpegls_encode(RGB[..., 0]))
    for read in (Slide, read_photo):
        with pytest.raises(UnsupportedImageError, match="is JPEG-LS"):
            read(tmp_path / "a.jls")


@pytest.mark.parametrize("tag", ["ImageLength", "ImageWidth"])
@pytest.mark.parametrize("options", [{}, {"tile": (32, 32)}])
def test_no_height_is_said(tmp_path, tag, options):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, RGB, photometric="rgb", metadata=None, **options)
    with tifffile.TiffFile(path, mode="r+") as tiff:
        tiff.pages[0].tags[tag].overwrite(0)
    size = "64x0" if tag == "ImageLength" else "0x48"
    with pytest.raises(UnreadableImageError, match=rf"it has {size} pixels \(TIFF directory 0\)"):
        Slide(path)


@pytest.mark.parametrize("suffix", ["gif", "webp"])
def test_an_animation_is_no_slide(tmp_path, monkeypatch, suffix):
    frames = [PIL.Image.fromarray(np.roll(RGB, shift, axis=1)) for shift in range(36)]
    path = tmp_path / f"a.{suffix}"
    frames[0].save(path, save_all=True, append_images=frames[1:])
    with pytest.raises(UnsupportedImageError, match=r"is an animation \(\w+\) of 36 frames") as error:
        Slide(path)
    monkeypatch.chdir(tmp_path)
    names = {"PIL": PIL}
    exec(re.search(r"need: (.*)", str(error.value))[1], names)
    names["image"].close()
    with Slide("frame.png") as slide:
        np.testing.assert_array_equal(slide.numpy(), read_photo(path))  # of a photo the first frame is shown
    frames[0].save(path)
    with Slide(path) as slide:
        assert slide.levels[0].size == (64, 48)


def test_a_plane_of_a_companion_set_is_not_the_slide(tmp_path):
    xml = (
        '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" UUID="urn:uuid:a">'
        '<BinaryOnly MetadataFile="set.companion.ome" UUID="urn:uuid:b"/></OME>'
    )
    tifffile.imwrite(tmp_path / "plane.ome.tif", RGB[..., 0], metadata=None, description=xml)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UnsupportedImageError, match=r"one file of an OME-TIFF set.*bfconvert set\.companion\.ome"):
            Slide(tmp_path / "plane.ome.tif")
