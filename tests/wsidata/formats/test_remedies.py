"""Errors that say which choice is missing: what they tell to do works, taken word for word."""

import ast
import re

import numpy as np
import pytest
import pyvips
import tifffile
import zarr

from wsidata import Slide, WSIDataModule
from wsidata.cli import arguments
from wsidata.errors import UndecidedImageError, UnsupportedImageError
from wsidata.photos.read import read_photo
from wsidata.slides.slide import slide_info

RGB = np.random.default_rng(3).integers(0, 256, (96, 128, 3), dtype=np.uint8)
PLANES = np.ascontiguousarray(np.moveaxis(RGB, 2, 0))
TILE = {"tile": (32, 64), "metadata": None}


def write_planes(path, planes, **options):
    with tifffile.TiffWriter(path) as tiff:
        for plane in planes:
            tiff.write(plane, photometric="minisblack", **{**TILE, **options})
    return path


def write_zarr(path, planes):
    root = zarr.open_group(path, mode="w")
    root.create_array("0", data=planes, chunks=(1, 64, 64))
    axes = [{"name": name, "type": kind} for name, kind in (("c", "channel"), ("y", "space"), ("x", "space"))]
    level = {"path": "0", "coordinateTransformations": [{"type": "scale", "scale": [1.0, 0.5, 0.5]}]}
    root.attrs["ome"] = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": [level]}]}
    return path


def write_ome(path, planes, **options):
    tifffile.imwrite(path, planes, ome=True, photometric="minisblack", metadata={"axes": "CYX"}, **options)
    return path


def told(message):
    """Arguments that a message names, all possible ones in its order, as Python reads them."""
    found = re.findall(r"(channels|scale_to_8bit)=(\[[^]]*\]|\([^)]*\)|'[^']*')", message)
    return [(name, ast.literal_eval(value)) for name, value in found]


def follow(path, prefer=""):
    """Open a slide and do what errors say until it opens; the arguments it took."""
    taken = {}
    for _ in range(3):
        try:
            with Slide(path, **taken) as slide:
                slide.numpy()
                return taken
        except UndecidedImageError as error:
            message = str(error)
        named = told(message)
        assert named, message
        taken |= {name: value for name, value in named if name not in taken or value == prefer}
    raise AssertionError(f"three remedies were not enough: {taken}")


TYPES = ["uint8", "int8", "uint16", "int16", "uint32", "int32", "float16", "float32", "float64"]


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("kind", ["stack", "one", "samples", "planar", "zarr", "rgb"])
def test_choices_that_are_asked_for_are_enough(tmp_path, dtype, kind):
    pixels = (np.random.default_rng(0).random((5, 96, 128)) * 100).astype(dtype)
    path = tmp_path / "a.tif"
    if kind == "stack":
        write_planes(path, pixels)
    elif kind == "one":
        write_planes(path, pixels[:1])
    elif kind == "samples":
        tifffile.imwrite(path, np.moveaxis(pixels, 0, 2), photometric="minisblack", planarconfig="contig", **TILE)
    elif kind == "planar":
        tifffile.imwrite(path, pixels, photometric="minisblack", planarconfig="separate", **TILE)
    elif kind == "zarr":
        path = write_zarr(tmp_path / "a.zarr", pixels)
    else:
        tifffile.imwrite(path, np.moveaxis(pixels[:3], 0, 2), photometric="rgb", **TILE)
    taken = follow(path)
    assert set(taken) <= {"channels", "scale_to_8bit"}


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("kind", ["stack", "planar", "samples", "ome", "zarr"])
def test_three_channels_are_rgb_if_one_says_so(tmp_path, dtype, kind):
    planes, path = PLANES.astype(dtype), tmp_path / "a.tif"
    if kind == "stack":
        write_planes(path, planes)
    elif kind == "planar":
        tifffile.imwrite(path, planes, photometric="minisblack", planarconfig="separate", **TILE)
    elif kind == "samples":
        tifffile.imwrite(path, np.moveaxis(planes, 0, 2), photometric="minisblack", planarconfig="contig", **TILE)
    elif kind == "ome":
        write_ome(path, planes, tile=(32, 64))
    else:
        path = write_zarr(tmp_path / "a.zarr", planes)
    with pytest.raises(UndecidedImageError, match="If they are red, green and blue, pass channels='rgb'"):
        Slide(path)
    taken = follow(path, prefer="rgb")
    assert taken["channels"] == "rgb"
    assert ("scale_to_8bit" in taken) == (dtype != "uint8")
    scale = None if dtype == "uint8" else (0, 255)
    with Slide(path, channels="rgb", scale_to_8bit=scale) as slide:
        assert slide.channel_names == ("red", "green", "blue")
        assert slide.background == 255
        np.testing.assert_array_equal(slide.numpy(), RGB)
        np.testing.assert_array_equal(slide.read_region(5, 7, 50, 60), RGB[7:67, 5:55])
        np.testing.assert_array_equal(slide.lazy().rows(3, 9).permute(1, 2, 0), RGB[3:9])
        assert slide.image().interpretation == "srgb"
        assert slide.tissue_mask().pixels.shape == (96, 128)
        assert (slide.read_region(-4, 0, 4, 4) == 255).all()


@pytest.mark.parametrize("compression", [None, "jpeg"])
def test_rgb_of_a_slide_that_says_so_itself_changes_nothing(tmp_path, compression):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, RGB, photometric="rgb", compression=compression, **TILE)
    with Slide(path) as slide, Slide(path, channels="RGB") as same:
        assert same.reader == slide.reader
        np.testing.assert_array_equal(same.numpy(), slide.numpy())


def test_rgb_is_for_three_channels(tmp_path):
    four = np.concatenate([PLANES, PLANES[:1]])
    for path in (write_planes(tmp_path / "a.tif", four), write_zarr(tmp_path / "a.zarr", four)):
        with pytest.raises(UnsupportedImageError, match=r"4 channels \(0: '0', .*channels='rgb' is for three"):
            Slide(path, channels="rgb")
    with Slide(write_planes(tmp_path / "named.tif", four), channels=["1"]) as slide:
        np.testing.assert_array_equal(slide.numpy()[..., 0], PLANES[1])


def test_rgb_on_the_command_line_and_in_the_data_module(tmp_path):
    assert arguments.channel_list("RGB") == "rgb"
    for number in range(4):
        write_ome(tmp_path / f"s{number}.ome.tif", PLANES)
    (tmp_path / "t.csv").write_text("image,class\n" + "\n".join(f"s{n}.ome.tif,{'ab'[n % 2]}" for n in range(4)))
    dm = WSIDataModule(
        tmp_path / "t.csv", tmp_path, level=0, channels="rgb", val_ids=["s0", "s1"], num_workers=0, leaks="off"
    )
    dm.setup("fit")
    image, _ = dm.datasets["val"][0]
    np.testing.assert_array_equal(image.permute(1, 2, 0), RGB)
    assert dm.stats.mean == pytest.approx((RGB.reshape(-1, 3)[None].mean(axis=(0, 1)) / 255).tolist())


OME = (
    '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image ID="Image:0"><Pixels '
    'ID="Pixels:0" DimensionOrder="XYCZT" Type="uint8" SizeX="128" SizeY="96" SizeC="2" SizeZ="1" SizeT="1">'
    '<Channel ID="Channel:0:0" SamplesPerPixel="1"/><Channel ID="Channel:0:1" SamplesPerPixel="1"/>'
    '<TiffData IFD="0" FirstC="0" PlaneCount="1"/><TiffData IFD="1" FirstC="1" PlaneCount="1"/></Pixels></Image></OME>'
)


@pytest.mark.parametrize("description", [OME, None])
def test_planes_with_lookup_tables_are_channels(tmp_path, description):
    """Bio-Formats writes one palette per channel; what is stored is the signal."""
    path = tmp_path / "a.tif"
    colors = [np.stack([np.arange(256) * 257 * (band == one) for band in range(3)]).astype(np.uint16) for one in (0, 1)]
    with tifffile.TiffWriter(path) as tiff:
        for index, (plane, colormap) in enumerate(zip(PLANES[:2], colors, strict=True)):
            text = None if index else description
            tiff.write(plane, photometric="palette", colormap=colormap, description=text, **TILE)
    with pytest.raises(UndecidedImageError, match="2 planes of uint8"):
        Slide(path)
    assert follow(path) == {"channels": [0]}
    with Slide(path, channels=[1, 0]) as slide:
        np.testing.assert_array_equal(slide.numpy(), RGB[..., [1, 0]])
        np.testing.assert_array_equal(slide.lazy().rows(3, 40).permute(1, 2, 0), RGB[3:40][..., [1, 0]])
    single = tmp_path / "single.tif"
    tifffile.imwrite(single, PLANES[0], photometric="palette", colormap=colors[0], metadata=None)
    with pytest.raises(UnsupportedImageError, match=r"Leave channels= out"):
        Slide(single, channels=[0])
    with Slide(single) as slide:
        np.testing.assert_array_equal(slide.numpy()[..., 0], PLANES[0])


@pytest.mark.parametrize("photometric", ["rgb", "miniswhite"])
def test_pages_are_saved_as_the_error_says(tmp_path, monkeypatch, photometric):
    pages = [RGB, RGB[::-1]] if photometric == "rgb" else [PLANES[0], PLANES[1]]
    path = tmp_path / "pages.tif"
    with tifffile.TiffWriter(path) as tiff:
        for page in pages:
            tiff.write(page, photometric=photometric, metadata=None)
    with pytest.raises(UnsupportedImageError, match=r"stack of 2 images of 128x96 px \(pages") as error:
        Slide(path)
    monkeypatch.chdir(tmp_path)
    code = re.search(r"tifffile\.imwrite\(.*\)", str(error.value))[0]
    exec(code, {"tifffile": tifffile})
    with Slide(tmp_path / "page.tif") as slide:
        expected = RGB if photometric == "rgb" else np.repeat(255 - PLANES[0][..., None], 3, axis=2)
        np.testing.assert_array_equal(slide.numpy(), expected)


def test_photos_say_what_works_for_photos(tmp_path):
    path = write_planes(tmp_path / "two.tif", PLANES[:2], tile=None)
    with pytest.raises(UnsupportedImageError, match=r"stack of 2 planes.*Photos are read without such a choice: save"):
        read_photo(path)


def test_deep_photo_is_scaled_as_the_error_says(tmp_path):
    pyvips.Image.new_from_array(RGB.astype(np.uint16) * 257).copy(interpretation="rgb16").pngsave(
        str(tmp_path / "a.png")
    )
    assert follow(tmp_path / "a.png") == {"scale_to_8bit": (0, 65535)}


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16"])
def test_info_lists_levels_and_channels_of_a_multiplex_slide(tmp_path, dtype, capsys):
    from wsidata.__main__ import main

    path = tmp_path / "panel.ome.tif"
    with tifffile.TiffWriter(path, ome=True) as tiff:
        names = {"axes": "CYX", "Channel": {"Name": ["DAPI", "CD3", "CD8", "PanCK"]}}
        planes = np.zeros((4, 96, 128), dtype)
        tiff.write(planes, tile=(32, 32), subifds=1, photometric="minisblack", metadata=names)
        tiff.write(planes[:, ::2, ::2], tile=(32, 32), subfiletype=1, photometric="minisblack")
    info = slide_info(path)
    assert info.channels == ("DAPI", "CD3", "CD8", "PanCK")
    assert [level.size for level in info.levels] == [(128, 96), (64, 48)]
    assert info.error == ""
    assert "Choose channels by number or name" in info.choice
    assert main(["info", str(path)]) == 0
    shown = capsys.readouterr().out
    assert "channels  DAPI, CD3, CD8, PanCK" in shown
    assert "to read   " in shown


def test_info_of_16_bits_says_which_choice_is_missing(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", RGB.astype(np.uint16), photometric="rgb", metadata=None)
    info = slide_info(tmp_path / "a.tif")
    assert (info.error, info.levels[0].size) == ("", (128, 96))
    assert "scale_to_8bit=(0, 65535)" in info.choice
    write_zarr(tmp_path / "a.zarr", np.zeros((2, 40, 60), np.uint16))
    assert slide_info(tmp_path / "a.zarr").channels == ("0", "1")
