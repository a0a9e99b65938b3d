"""OME-Zarr 0.4 and 0.5, sharded or not, with missing or damaged chunks."""

import shutil
import warnings

import numcodecs
import numpy as np
import pytest
import zarr

from wsidata.errors import (
    ConfinementError,
    MissingChunksWarning,
    SpacingUnknownError,
    UnreadableImageError,
    UnsupportedImageError,
)
from wsidata.slides.slide import Slide

RGB = np.random.default_rng(8).integers(0, 256, (3, 205, 301), dtype=np.uint8)
COLORS = [{"label": name, "color": color} for name, color in zip("RGB", ("FF0000", "00FF00", "0000FF"), strict=True)]


def write_zarr(path, levels, *, version="0.5", axes="tczyx", sharded=False, mpp=0.25, unit="micrometer",
               omero=COLORS, steps=None, shifts=None, given=None, scaled=True, **storage):  # fmt: skip
    """Levels as (c, y, x) or (y, x), or what `given` says."""
    root = zarr.open_group(path, mode="w", zarr_format=2 if version == "0.4" else 3)
    datasets = []
    for index, pixels in enumerate(levels):
        extents = {"t": 1, "c": 1, "z": 1} | dict(zip(given or "cyx"[-pixels.ndim :], pixels.shape, strict=True))
        shape = tuple(extents[axis] for axis in axes)
        chunks = (1,) * (len(shape) - 2) + (64, 64)
        options = {"shards": (*chunks[:-2], 128, 128)} if sharded else {}
        if version == "0.4":
            options["chunk_key_encoding"] = {"name": "v2", "separator": "/"}
        array = root.create_array(str(index), shape=shape, chunks=chunks, dtype=pixels.dtype, **options, **storage)
        array[...] = pixels.reshape(shape)
        step = (
            steps[index] if steps else (levels[0].shape[-1] / pixels.shape[-1], levels[0].shape[-2] / pixels.shape[-2])
        )
        scale = [1.0] * (len(shape) - 2) + [mpp * step[1], mpp * step[0]]
        transforms = [{"type": "scale", "scale": scale}]
        if shifts:
            transforms.append({"type": "translation", "translation": [0.0] * (len(shape) - 2) + [shifts[index]] * 2})
        datasets.append({"path": str(index)} | ({"coordinateTransformations": transforms} if scaled else {}))
    kinds = {"t": "time", "c": "channel"}
    named = [{"name": axis, "type": kinds.get(axis, "space")} for axis in axes]
    for axis in named[-2:]:
        axis |= {"unit": unit} if unit else {}
    attributes = {"multiscales": [{"version": version, "name": "a", "axes": named, "datasets": datasets}]}
    if omero:
        attributes["omero"] = {"channels": omero}
    root.attrs.update(attributes if version == "0.4" else {"ome": {"version": version, **attributes}})
    return path


def pyramid(pixels):
    return [pixels, pixels[..., ::2, ::2], pixels[..., ::4, ::4]]


@pytest.mark.slow
@pytest.mark.parametrize(("version", "sharded"), [("0.4", False), ("0.5", False), ("0.5", True)])
def test_rgb_pyramids(tmp_path, version, sharded):
    path = write_zarr(tmp_path / "a.zarr", pyramid(RGB), version=version, sharded=sharded)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with Slide(path) as slide:
            assert [level.size for level in slide.levels] == [(301, 205), (151, 103), (76, 52)]
            assert slide.levels[1].downsample_x == pytest.approx(301 / 151)
            assert (slide.kind, slide.reader) == ("ome-zarr", "zarr")
            assert slide.mpp == pytest.approx((0.25, 0.25))
            assert slide.mpp_source == "OME-Zarr (scale)"
            assert slide.properties["ome-zarr.version"] == version
            for level, pixels in enumerate(pyramid(RGB)):
                np.testing.assert_array_equal(slide.numpy(level=level), np.moveaxis(pixels, 0, 2))
            np.testing.assert_array_equal(slide.read_region(60, 70, 90, 80), np.moveaxis(RGB, 0, 2)[70:150, 60:150])
            assert slide.image(mpp=1.0).width == 75
        with pytest.raises(ValueError, match="is closed"):
            slide.numpy()


@pytest.mark.parametrize(("unit", "mpp"), [("nanometer", 250), ("millimeter", 0.00025), ("micrometer", 0.25)])
def test_units(tmp_path, unit, mpp):
    with Slide(write_zarr(tmp_path / "a.zarr", [RGB], unit=unit, mpp=mpp)) as slide:
        assert slide.mpp == pytest.approx((0.25, 0.25))


def test_a_scale_without_a_unit_is_not_a_spacing(tmp_path):
    with Slide(write_zarr(tmp_path / "a.zarr", [RGB], unit=None)) as slide:
        assert slide.mpp is None
        with pytest.raises(SpacingUnknownError, match=r"a\.zarr.*OME-Zarr scale and unit"):
            slide.image(mpp=1.0)


def test_no_scale_is_not_a_spacing_of_one(tmp_path):
    with Slide(write_zarr(tmp_path / "a.zarr", pyramid(RGB), scaled=False)) as slide:
        assert slide.mpp is None
        assert [level.size for level in slide.levels] == [(301, 205), (151, 103), (76, 52)]


def test_levels_not_listed_from_the_largest_raise(tmp_path):
    with pytest.raises(UnsupportedImageError, match=r"level 1 \(151x103\) is no smaller than the one before"):
        Slide(write_zarr(tmp_path / "a.zarr", pyramid(RGB)[::-1]))


@pytest.mark.parametrize("dtype", [">u2", ">f4", "<u2", "u1"])
def test_samples_in_another_byte_order(tmp_path, dtype):
    path = write_zarr(tmp_path / "a.zarr", pyramid(RGB.astype(dtype)), version="0.4")
    with Slide(path, channels=[0, 2]) as slide:
        pixels = slide.numpy(level=1)
        assert pixels.dtype.isnative
        np.testing.assert_array_equal(pixels, np.moveaxis(RGB[[0, 2], ::2, ::2], 0, 2))
        rows = slide.image(level=0, keep_tiles=True).crop(0, 30, 301, 9).numpy()
        np.testing.assert_array_equal(rows.reshape(9, 301, 2), np.moveaxis(RGB[[0, 2], 30:39], 0, 2))


@pytest.mark.parametrize("dtype", ["u8", "i8", "f2", "i2"])
def test_every_type_can_be_scaled(tmp_path, dtype):
    path = write_zarr(tmp_path / "a.zarr", [(RGB // 2).astype(dtype)], version="0.4")
    with Slide(path, channels=[1], scale_to_8bit=(0, 127)) as slide:
        np.testing.assert_array_equal(slide.numpy()[..., 0], np.rint(RGB[1] // 2 * (255 / 127)))


@pytest.mark.slow
def test_channels_by_name_keep_their_type(tmp_path):
    deep = (RGB.astype(np.uint16) * 17)[:2]
    names = [{"label": "DAPI", "color": "0000FF"}, {"label": "CD3", "color": "00FF00"}]
    path = write_zarr(tmp_path / "a.zarr", pyramid(deep), omero=names)
    with pytest.raises(UnsupportedImageError, match=r"2 channels of uint16 \(0: 'DAPI', 1: 'CD3'\).*channels=\[0\]"):
        Slide(path)
    with Slide(path, channels="CD3") as slide:
        assert slide.channel_names == ("CD3",)
        pixels = slide.numpy(level=1)
        assert pixels.dtype == np.uint16
        np.testing.assert_array_equal(pixels[..., 0], deep[1, ::2, ::2])
        np.testing.assert_array_equal(slide.read_region(5, 6, 7, 8)[..., 0], deep[1, 6:14, 5:12])
    with Slide(path, channels=["CD3", 0], scale_to_8bit=(0, 4335)) as slide:
        assert slide.numpy().dtype == np.uint8
        np.testing.assert_array_equal(slide.numpy(), np.moveaxis(RGB[[1, 0]], 0, 2))
    for options in ({"channels": ["CD3", 0]}, {"channels": 0, "scale_to_8bit": (0, 4335)}):
        with Slide(path, **options) as slide:
            whole, lazy = slide.numpy(), slide.image(keep_tiles=True)
        assert lazy.get_typeof("tile-width")
        np.testing.assert_array_equal(lazy.numpy().reshape(whole.shape), whole)


def test_three_channels_are_rgb_only_if_the_file_says_so(tmp_path):
    path = write_zarr(tmp_path / "a.zarr", [RGB], omero=None)
    with pytest.raises(
        UnsupportedImageError, match=r"of unstated colors .*If they are red, green and blue, pass channels='rgb'"
    ):
        Slide(path)
    with Slide(path, channels=[0, 1, 2]) as slide:
        np.testing.assert_array_equal(slide.numpy(), np.moveaxis(RGB, 0, 2))


def test_gray_without_a_channel_axis(tmp_path):
    with Slide(write_zarr(tmp_path / "a.zarr", [RGB[0]], axes="yx", omero=None)) as slide:
        np.testing.assert_array_equal(slide.numpy(), np.repeat(RGB[0][..., None], 3, 2))


def test_sixteen_bit_gray_needs_scale_to_8bit(tmp_path):
    path = write_zarr(tmp_path / "a.zarr", [RGB[0].astype(np.uint16) * 257], axes="yx", omero=None)
    with pytest.raises(UnsupportedImageError, match=r"uint16 samples.*scale_to_8bit"):
        Slide(path)
    with Slide(path, scale_to_8bit=(0, 65535)) as slide:
        np.testing.assert_array_equal(slide.numpy()[..., 1], RGB[0])


def test_metadata_without_chunks_raises(tmp_path):
    path = write_zarr(tmp_path / "a.zarr", pyramid(RGB))
    shutil.rmtree(path / "1" / "c")
    with Slide(path) as slide:
        assert slide.numpy(level=0).max() > 0
        with pytest.raises(UnreadableImageError, match=r"a\.zarr': level 1 has metadata but not one of its 18 chunks"):
            slide.numpy(level=1)


@pytest.mark.parametrize("sharded", [False, True])
def test_lost_chunks_warn(tmp_path, sharded):
    path = write_zarr(tmp_path / "a.zarr", [RGB], sharded=sharded)
    next(file for file in (path / "0" / "c").rglob("*") if file.is_file()).unlink()
    with (
        Slide(path) as slide,
        pytest.warns(MissingChunksWarning, match=r"chunks of level 0 are not there.*fill value 0"),
    ):
        slide.numpy()


@pytest.mark.parametrize("channels", [None, [1], [0, 1, 2]])
def test_lost_chunks_warn_only_for_the_channels_read(tmp_path, channels):
    path = write_zarr(tmp_path / "a.zarr", [RGB], version="0.4", axes="cyx")
    (path / "0" / "1" / "0" / "0").unlink()
    (path / "0" / "notes.txt").write_text("no chunk")
    said = r"1 of \d+ chunks of level 0"
    with Slide(path, channels=channels) as slide, pytest.warns(MissingChunksWarning, match=said):
        slide.numpy()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with Slide(path, channels=[2, 0]) as slide:
            np.testing.assert_array_equal(slide.numpy(), np.moveaxis(RGB[[2, 0]], 0, 2))


BLOSC = {"0.4": numcodecs.Blosc(), "0.5": zarr.codecs.BloscCodec()}


@pytest.mark.parametrize("kind", ["real", "noise"])
@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_truncated_blosc_chunk_raises_and_its_neighbors_do_not(tmp_path, version, kind):
    """c-blosc reads beyond the end: the pixels would be whatever lies there in memory."""
    pixels = RGB if kind == "noise" else np.broadcast_to(np.arange(301, dtype=np.uint8), RGB.shape)
    path = write_zarr(tmp_path / "a.zarr", [pixels], version=version, axes="cyx", compressors=BLOSC[version])
    chunk = path / "0" / ("0/0/0" if version == "0.4" else "c/0/0/0")
    whole = chunk.read_bytes()
    for length in sorted({0, 7, 15, 16, 20, len(whole) // 2, len(whole) - 1}):
        chunk.write_bytes(whole[:length])
        with Slide(path) as slide:
            with pytest.raises(UnreadableImageError, match=rf"'.*0/0/0' of level 0 is cut off .*\({length} bytes"):
                slide.read_region(10, 10, 5, 5)
            np.testing.assert_array_equal(slide.read_region(70, 0, 20, 20), np.moveaxis(pixels, 0, 2)[:20, 70:90])
    chunk.write_bytes(whole[:4] + b"\xff\xff\xff\x7f" + whole[8:])
    with Slide(path) as slide, pytest.raises(UnreadableImageError, match="is cut off or damaged"):
        slide.numpy()
    chunk.write_bytes(whole)
    with Slide(path) as slide:
        np.testing.assert_array_equal(slide.numpy(), np.moveaxis(pixels, 0, 2))


@pytest.mark.slow
def test_a_damaged_chunk_raises(tmp_path):
    path = write_zarr(tmp_path / "a.zarr", [RGB])
    chunk = next(file for file in (path / "0" / "c").rglob("*") if file.is_file())
    chunk.write_bytes(b"\xa5" * 40)
    with Slide(path) as slide, pytest.raises(UnreadableImageError, match=r"a\.zarr': level 0 could not be decoded"):
        slide.numpy()


def test_stacks_and_plates_raise(tmp_path):
    with pytest.raises(UnsupportedImageError, match="z: 3"):
        Slide(write_zarr(tmp_path / "z.zarr", [RGB], axes="zyx", given="zyx"))
    plate = zarr.open_group(tmp_path / "plate.zarr", mode="w")
    plate.attrs["ome"] = {"version": "0.5", "plate": {}}
    with pytest.raises(UnsupportedImageError, match="plate of many images"):
        Slide(tmp_path / "plate.zarr")


def test_a_scale_that_contradicts_the_sizes_raises(tmp_path):
    with pytest.raises(UnsupportedImageError, match=r"level 1 \(151x103\) has the scale 3 of level 0"):
        Slide(write_zarr(tmp_path / "a.zarr", pyramid(RGB), steps=[(1, 1), (3, 3), (4, 4)]))


def test_shifted_levels_raise(tmp_path):
    half_a_pixel = [0.0, 0.125, 0.375]
    Slide(write_zarr(tmp_path / "a.zarr", pyramid(RGB), shifts=half_a_pixel)).close()
    with pytest.raises(UnsupportedImageError, match=r"level 2 begins 5\.0 of its pixels away"):
        Slide(write_zarr(tmp_path / "b.zarr", pyramid(RGB), steps=[(1, 1), (2, 2), (4, 4)], shifts=[0, 0, 5.0]))


def test_bioformats2raw_keeps_the_slide_in_image_0_and_the_label_beside_it(tmp_path):
    root = zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=2)
    root.attrs["bioformats2raw.layout"] = 3
    write_zarr(tmp_path / "a.zarr" / "0", pyramid(RGB), version="0.4")
    write_zarr(tmp_path / "a.zarr" / "1", [RGB[:, :50, :40]], version="0.4")
    with Slide(tmp_path / "a.zarr") as slide:
        assert slide.level_count == 3
        assert list(slide.associated_images) == ["1"]
        np.testing.assert_array_equal(slide.associated_images["1"].numpy(), np.moveaxis(RGB[:, :50, :40], 0, 2))


@pytest.mark.parametrize("attributes", [{}, {"ome": {"multiscales": [{"axes": [], "datasets": []}]}}, {"ome": 3}])
def test_invalid_metadata_raises_naming_the_file(tmp_path, attributes):
    zarr.open_group(tmp_path / "a.zarr", mode="w").attrs.update(attributes)
    with pytest.raises((UnreadableImageError, UnsupportedImageError), match=r"a\.zarr"):
        Slide(tmp_path / "a.zarr")


def test_a_folder_that_is_not_a_store_raises(tmp_path):
    with pytest.raises(FileNotFoundError, match="is no file, but a folder, and no OME-Zarr"):
        Slide(tmp_path)


def test_missing_arrays_and_old_versions_raise(tmp_path):
    path = write_zarr(tmp_path / "lost.zarr", pyramid(RGB), version="0.4")
    shutil.rmtree(path / "1")
    with pytest.raises(UnreadableImageError, match="level '1' is named in the metadata, but not there"):
        Slide(path)
    old = write_zarr(tmp_path / "old.zarr", [RGB], version="0.4")
    group = zarr.open_group(old)
    group.attrs["multiscales"] = [{"version": "0.1", "datasets": [{"path": "0"}]}]
    with pytest.raises(UnsupportedImageError, match=r"is OME-Zarr 0\.1 without named axes.*Write it again"):
        Slide(old)
    empty = zarr.open_group(tmp_path / "b2r.zarr", mode="w", zarr_format=2)
    empty.attrs["bioformats2raw.layout"] = 3
    with pytest.raises(UnreadableImageError, match="has the metadata of bioformats2raw, but none of its images"):
        Slide(tmp_path / "b2r.zarr")


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_levels_that_are_links_out_of_the_image_are_refused(tmp_path, version):
    pixels = RGB[:, :80, :80]  # zeros would be stored as no chunks
    path = write_zarr(tmp_path / "a.ome.zarr", [pixels], version=version)
    (path / "0").rename(tmp_path / "elsewhere")
    (path / "0").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfinementError, match=r"a\.ome\.zarr' names '0', a link that leads out of"):
        Slide(path)
