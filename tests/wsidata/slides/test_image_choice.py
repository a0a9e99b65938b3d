"""The image, focal plane and time that is read of a file with several."""

import numpy as np
import pandas as pd
import pytest
import tifffile
import zarr

from wsidata.__main__ import main
from wsidata.datamodules.checks import SlideCheckError
from wsidata.datamodules.geometry import GeometryError, check_geometry
from wsidata.datamodules.wsi import WSIDataModule
from wsidata.errors import UnsupportedImageError
from wsidata.slides.slide import Slide, slide_info
from wsidata.stats.compute import channel_stats
from wsidata.synthetic.slides import write_pixels

STACK = np.random.default_rng(0).integers(0, 256, (3, 4, 90, 121, 3), dtype=np.uint8)
TILE = {"tile": (64, 64), "photometric": "rgb"}


def write_stack(path):
    with tifffile.TiffWriter(path, ome=True) as tiff:
        tiff.write(STACK, subifds=1, metadata={"axes": "TZYXS", "PhysicalSizeX": 0.25, "PhysicalSizeY": 0.25}, **TILE)
        tiff.write(STACK[:, :, ::2, ::2], subfiletype=1, **TILE)
    return path


def test_planes_of_an_ome_tiff(tmp_path):
    path = write_stack(tmp_path / "a.ome.tif")
    with pytest.raises(UnsupportedImageError, match=r"stack of 12 planes.*takes t=0 to t=2, z=0 to z=3\."):
        Slide(path)
    with pytest.raises(UnsupportedImageError, match=r"takes t=0 to t=2\."):
        Slide(path, z=2)
    with pytest.raises(UnsupportedImageError, match=r"has 4 focal planes, and z=4 is none of them \(0, 1, 2, 3\)"):
        Slide(path, z=4, t=0)
    for t, z in ((0, 0), (2, 1), (1, 3)):
        with Slide(path, z=z, t=t) as slide:
            assert slide.mpp == (0.25, 0.25)
            for level, step in enumerate((1, 2)):
                np.testing.assert_array_equal(slide.numpy(level=level), STACK[t, z, ::step, ::step])
            np.testing.assert_array_equal(slide.lazy().rows(5, 9), STACK[t, z, 5:9].transpose(2, 0, 1))


def test_axes_and_channels_in_any_order(tmp_path):
    by_channel = STACK.transpose(1, 4, 0, 2, 3)  # ZCTYX
    tifffile.imwrite(tmp_path / "a.ome.tif", by_channel, metadata={"axes": "ZCTYX"}, photometric="minisblack")
    with Slide(tmp_path / "a.ome.tif", z=3, t=1, channels=[2, 0]) as slide:
        np.testing.assert_array_equal(slide.numpy(), STACK[1, 3][..., [2, 0]])
    with tifffile.TiffWriter(tmp_path / "b.tif", imagej=True) as tiff:
        about = {"axes": "ZYXS", "unit": "um"}
        tiff.write(STACK[0], contiguous=False, metadata=about, resolution=(4, 4), photometric="rgb")
    with Slide(tmp_path / "b.tif", z=2) as slide:
        assert slide.mpp == (0.25, 0.25)
        np.testing.assert_array_equal(slide.numpy(), STACK[0, 2])


def test_images_of_a_file_have_their_own_spacing(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.ome.tif", ome=True) as tiff:
        for number in range(3):
            sizes = {f"PhysicalSize{axis}": 0.25 * (number + 1) for axis in "XY"}
            tiff.write(STACK[0, number], metadata={"axes": "YXS", "Name": f"scan {number}", **sizes}, **TILE)
    with pytest.raises(UnsupportedImageError, match="holds 3 images of similar size"):
        Slide(tmp_path / "a.ome.tif")
    with pytest.raises(UnsupportedImageError, match=r"series=3 is none of them \(0: 'scan 0'.*2: 'scan 2'"):
        Slide(tmp_path / "a.ome.tif", series=3)
    info = slide_info(tmp_path / "a.ome.tif")
    assert [name.split("'")[1] for name in info.series] == ["scan 0", "scan 1", "scan 2"]
    assert (info.mpp, info.z, info.t, info.error) == ((0.25, 0.25), (), (), "")
    assert "  series    0: 'scan 0' (90, 121, 3), 1: 'scan 1'" in str(info)
    assert slide_info(tmp_path / "a.ome.tif", series=2).mpp == (0.75, 0.75)
    for number in range(3):
        with Slide(tmp_path / "a.ome.tif", series=number) as slide:
            assert slide.mpp == (0.25 * (number + 1), 0.25 * (number + 1))
            np.testing.assert_array_equal(slide.numpy(), STACK[0, number])


def test_files_of_one_image_have_no_other(tmp_path):
    path = write_pixels(tmp_path / "a.svs", STACK[0, 0], vendor="aperio", tile=64, compression="deflate")
    tifffile.imwrite(tmp_path / "c.tif", STACK[0, 0], photometric="rgb")
    for one in (path, tmp_path / "c.tif"):
        with Slide(one, series=0, z=0, t=0) as slide:
            np.testing.assert_array_equal(slide.numpy(), STACK[0, 0])
        assert "series" not in str(slide_info(one))
        for name in ("series", "z", "t"):
            with pytest.raises(UnsupportedImageError, match=f"{name}=1 is none of them.*or leave {name}= out"):
                Slide(one, **{name: 1})
    for wrong in (-1, 1.0, "0", True):
        with pytest.raises(ValueError, match="must be a whole number"):
            Slide(path, z=wrong)


@pytest.mark.parametrize("planes", [(3, 4), (3, 2)])
def test_planes_of_an_ome_zarr(tmp_path, planes):
    """Also one whose second level has fewer of them."""
    levels = [STACK, STACK[:, :: 4 // planes[1], ::2, ::2]]
    for series in range(2):
        group = zarr.open_group(tmp_path / "a.zarr" / str(series), mode="w")
        datasets = []
        for level, pixels in enumerate(levels):
            shown = np.ascontiguousarray(np.moveaxis(pixels, -1, 1)) ^ np.uint8(series)  # TCZYX
            group.create_array(str(level), data=shown, chunks=(1, 1, 1, 64, 64))
            scale = {"type": "scale", "scale": [1, 1, 1, 2.0**level, 2.0**level]}
            datasets.append({"path": str(level), "coordinateTransformations": [scale]})
        axes = [{"name": axis, "type": "space"} for axis in "tczyx"]
        group.attrs["ome"] = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": datasets}]}
    zarr.open_group(tmp_path / "a.zarr").attrs["ome"] = {"version": "0.5", "bioformats2raw.layout": 3}
    if planes[1] == 2:
        with pytest.raises(UnsupportedImageError, match="level 1 has another number of planes along z"):
            Slide(tmp_path / "a.zarr", channels="rgb", t=0, z=1)
        return
    with pytest.raises(UnsupportedImageError, match=r"holds a stack \(t: 3, z: 4.*takes t=0 to t=2, z=0 to z=3"):
        Slide(tmp_path / "a.zarr", channels="rgb")
    with pytest.raises(UnsupportedImageError, match=r"has 2 images, and series=2 is none"):
        Slide(tmp_path / "a.zarr", channels="rgb", series=2)
    info = slide_info(tmp_path / "a.zarr")
    assert (info.series, len(info.z), len(info.t), info.channels) == (("0", "1"), 4, 3, ("0", "1", "2"))
    with Slide(tmp_path / "a.zarr", channels="rgb", series=1, t=2, z=1) as slide:
        for level, pixels in enumerate(levels):
            np.testing.assert_array_equal(slide.numpy(level=level), pixels[2, 1] ^ 1)


def test_data_modules_and_info_choose_a_plane(tmp_path, capsys):
    paths = [str(write_stack(tmp_path / f"{name}.ome.tif")) for name in "ab"]
    table = pd.DataFrame({"image": paths, "class": ["x", "y"]})
    options = {"level": 1, "num_workers": 0, "predict_on": "all", "leaks": "off", "label_column": None}
    with pytest.raises(SlideCheckError, match=r"takes t=0 to t=2, z=0 to z=3"):
        WSIDataModule(table, **options).setup("predict")
    data = WSIDataModule(table, z=1, t=2, **options)
    data.setup("predict")
    for image in data.predict_dataloader():
        np.testing.assert_array_equal(image[0].numpy(), STACK[2, 1, ::2, ::2].transpose(2, 0, 1))
    with pytest.raises(GeometryError, match=r"read with t=None, and here .* t=2"):  # and before there was a choice
        check_geometry({"kind": "slides", "z": 1}, data.geometry(), (), resuming=False)
    check_geometry({"kind": "slides", "z": 1, "t": 2}, data.geometry(), (), resuming=False)
    stats = channel_stats(paths, level=1, z=1, t=2)
    np.testing.assert_allclose(stats.mean, STACK[2, 1, ::2, ::2].mean(axis=(0, 1)) / 255, atol=1e-9)
    assert main(["info", paths[0]]) == 0
    shown = capsys.readouterr().out
    assert "planes    z=0 to 3\n  times     t=0 to 2\n" in shown
    assert "takes t=0 to t=2, z=0 to z=3. Or export" in shown
    assert shown.endswith("Shown here: z=0, t=0.\n")
    assert main(["info", paths[0], "--z", "1", "--t", "0"]) == 0
    assert "planes    z=0 to 3\n  times     t=0 to 2\n" in (shown := capsys.readouterr().out)
    assert "to read" not in shown
    assert main(["info", paths[0], "--z", "4"]) == 1


def test_pages_of_one_size_are_images(tmp_path):
    for name, options in {"a.tif": {"tile": (64, 64)}, "b.tif": {"compression": "zlib"}}.items():
        with tifffile.TiffWriter(tmp_path / name) as tiff:
            for page in STACK[0]:
                tiff.write(page, photometric="rgb", metadata=None, **options)
        with pytest.raises(UnsupportedImageError, match=r"stack of 4 images.*takes series=0 to series=3\. Or save the"):
            Slide(tmp_path / name)
        for number in (0, 3):
            with Slide(tmp_path / name, series=number) as slide:
                np.testing.assert_array_equal(slide.numpy(), STACK[0, number])
        with pytest.raises(UnsupportedImageError, match="has 4 images, and series=4 is none of them"):
            Slide(tmp_path / name, series=4)
        with pytest.raises(UnsupportedImageError, match="has one focal plane, and z=1 is none"):
            Slide(tmp_path / name, series=1, z=1)
