"""Channels and deep samples: read as stored, or scaled as requested; never guessed."""

import numpy as np
import pytest
import tifffile
from places import SLIDES

from wsidata.errors import UnreadableImageError, UnsupportedImageError
from wsidata.formats.tiff.tiles import TiffTiles
from wsidata.slides.slide import Slide

STACK = np.random.default_rng(11).integers(0, 60_000, (4, 150, 201), dtype=np.uint16)
NAMES = ["DAPI", "CD3", "CD20", "PanCK"]
MICROMETERS = {"PhysicalSizeX": 0.325, "PhysicalSizeXUnit": "µm", "PhysicalSizeY": 0.325, "PhysicalSizeYUnit": "µm"}


def write_ome(path, stack=STACK, *, names=NAMES, levels=3, **options):
    """CYX with SubIFD levels, as Bio-Formats and MCMICRO write it."""
    options = {"tile": (64, 64), "photometric": "minisblack", "compression": "deflate"} | options
    with tifffile.TiffWriter(path, ome=True, bigtiff=True) as tiff:
        metadata = {"axes": "CYX", "Channel": {"Name": names}, **MICROMETERS}
        tiff.write(stack, subifds=levels - 1, metadata=metadata, **options)
        for level in range(1, levels):
            tiff.write(stack[:, :: 2**level, :: 2**level], subfiletype=1, **options)
    return path


def test_levels_in_subifds_have_every_channel(tmp_path):
    path = write_ome(tmp_path / "a.ome.tif")
    with Slide(path, channels=["PanCK", "DAPI"]) as slide:
        assert [level.size for level in slide.levels] == [(201, 150), (101, 75), (51, 38)]
        assert slide.mpp == pytest.approx((0.325, 0.325))
        assert slide.channel_names == ("PanCK", "DAPI")
        for level in range(3):
            pixels = slide.numpy(level=level)
            assert pixels.dtype == np.uint16
            np.testing.assert_array_equal(pixels, np.moveaxis(STACK[[3, 0], :: 2**level, :: 2**level], 0, 2))
        np.testing.assert_array_equal(slide.read_region(60, 50, 30, 20), slide.numpy()[50:70, 60:90])
        assert slide.numpy(mpp=1.0).shape == (round(150 * 0.325), round(201 * 0.325), 2)
        image = slide.image()
        assert (image.bands, image.format) == (2, "ushort")


def test_stacks_are_refused_listing_their_channels(tmp_path):
    with pytest.raises(
        UnsupportedImageError,
        match=r"stack of 4 planes of uint16 \(0: 'DAPI', .*3: 'PanCK'\).*channels=\[0\], scale_to_8bit=\(0, 65535\)",
    ):
        Slide(write_ome(tmp_path / "a.ome.tif"))


def test_three_scaled_channels_are_an_ordinary_image(tmp_path):
    path = write_ome(tmp_path / "a.ome.tif")
    with Slide(path, channels=[0, 1, 2], scale_to_8bit=(1000, 31_607)) as slide:
        image = slide.image()
        assert (image.bands, image.format, image.interpretation) == (3, "uchar", "srgb")
        expected = np.rint((np.moveaxis(STACK[:3], 0, 2) - 1000.0) / 30_607 * 255).clip(0, 255)
        np.testing.assert_array_equal(slide.numpy(), expected)
        np.testing.assert_array_equal(slide.read_region(3, 4, 5, 6), expected[4:10, 3:8])


def test_channels_as_samples_of_one_directory(tmp_path):
    for config, pixels in (("contig", np.moveaxis(STACK, 0, 2)), ("separate", STACK)):
        path = tmp_path / f"{config}.tif"
        tifffile.imwrite(path, pixels, photometric="minisblack", planarconfig=config, tile=(64, 64), metadata=None)
        with Slide(path, channels=[2]) as slide:
            assert slide.channel_names == ("2",)
            np.testing.assert_array_equal(slide.numpy()[..., 0], STACK[2])
        with pytest.raises(UnsupportedImageError, match=r"4 channels.*channels=\[0\], scale_to_8bit=\(0, 65535\)"):
            Slide(path)


def test_a_single_channel_of_an_rgb_slide(tmp_path):
    rgb = np.random.default_rng(1).integers(0, 255, (80, 90, 3), dtype=np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", rgb, photometric="rgb", tile=(64, 64))
    with Slide(tmp_path / "a.tif", channels=["green"]) as slide:
        np.testing.assert_array_equal(slide.numpy(), rgb[..., 1:2])


@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_sixteen_bit_rgb_is_scaled_on_request_only(tmp_path, planar):
    rgb = np.moveaxis(STACK[:3], 0, 2)
    pixels = rgb if planar == "contig" else np.moveaxis(rgb, 2, 0)
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, pixels, photometric="rgb", planarconfig=planar, tile=(64, 64), metadata=None)
    with pytest.raises(
        UnsupportedImageError, match=r"which stored values are black and white, scale_to_8bit=\(0, 65535\)"
    ):
        Slide(path)
    with Slide(path, scale_to_8bit=(0, 65_535)) as slide:
        assert slide.channel_names == ("red", "green", "blue")
        np.testing.assert_array_equal(slide.numpy(), np.rint(rgb / 257.0))


def test_scaling_leaves_eight_bit_slides_alone(tmp_path):
    rgb = np.random.default_rng(1).integers(0, 255, (80, 90, 3), dtype=np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", rgb, photometric="rgb", tile=(64, 64))
    with Slide(tmp_path / "a.tif", scale_to_8bit=(0, 4095)) as slide:
        np.testing.assert_array_equal(slide.numpy(), rgb)


@pytest.mark.parametrize(("dtype", "low_high"), [("int8", (-128, 127)), ("float32", (0.0, 1.0)), ("int16", (0, 100))])
def test_other_samples_need_a_scale_or_are_plain(tmp_path, dtype, low_high):
    values = np.linspace(*low_high, 80 * 90).reshape(80, 90).astype(dtype)
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="minisblack", tile=(64, 64))
    with pytest.raises(UnsupportedImageError, match="not 8-bit ones"):
        Slide(tmp_path / "a.tif")
    if dtype == "float32":
        with Slide(tmp_path / "a.tif", channels=0) as slide:
            np.testing.assert_array_equal(slide.numpy()[..., 0], values)
    else:
        with pytest.raises(UnsupportedImageError, match=f"{dtype} samples, which can be read as 8 bits only"):
            Slide(tmp_path / "a.tif", channels=0)
    with Slide(tmp_path / "a.tif", scale_to_8bit=low_high) as slide:
        low, high = low_high
        expected = np.rint((values.astype(float) - low) * (255 / (high - low)))
        assert np.abs(slide.numpy()[..., 2] - expected).max() <= 1e-6


def test_channels_of_no_meaning_are_refused(tmp_path):
    path = write_ome(tmp_path / "a.ome.tif", names=["DAPI", "DAPI", "CD20", "PanCK"])
    with pytest.raises(UnsupportedImageError, match="channel 'DAPI' is the name of several"):
        Slide(path, channels=["DAPI"])
    with Slide(path, channels=[1]) as slide:
        np.testing.assert_array_equal(slide.numpy()[..., 0], STACK[1])
    with pytest.raises(ValueError, match=r"channels=\[\] names no channel"):
        Slide(path, channels=[])
    for wrong in ((5, 5), (9, 1), (0, float("nan"))):
        with pytest.raises(ValueError, match="low < high"):
            Slide(path, scale_to_8bit=wrong)


def test_palettes_have_no_channels(tmp_path):
    table = np.zeros((3, 256), np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((64, 64), np.uint8), photometric="palette", colormap=table)
    with pytest.raises(UnsupportedImageError, match="no channels"):
        Slide(tmp_path / "a.tif", channels=[0])


def test_focal_planes_are_refused_whatever_channels_are_requested(tmp_path):
    tifffile.imwrite(tmp_path / "a.ome.tif", STACK, photometric="minisblack", metadata={"axes": "ZYX"}, ome=True)
    with pytest.raises(UnsupportedImageError, match=r"stack of 4 planes \(axes ZYX: focal planes"):
        Slide(tmp_path / "a.ome.tif", channels=[0])


@pytest.mark.parametrize("options", [{}, {"channels": [0]}])
def test_a_stack_of_one_directory_is_not_taken_for_its_first_plane(tmp_path, options):
    """As ImageJ writes above 4 GB: the first plane has a directory, the others follow its pixels."""
    path = tmp_path / "a.tif"
    planes = STACK.astype(np.uint8)
    tifffile.imwrite(path, planes, photometric="minisblack", metadata={"axes": "CYX"}, truncate=True)
    with pytest.raises(UnsupportedImageError, match=r"stack \(4, 150, 201\) .*first plane only"):
        Slide(path, **options)


def test_a_cut_off_stack_is_refused(tmp_path):
    path = write_ome(tmp_path / "a.ome.tif")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UnreadableImageError, match=r"a\.ome\.tif'"):
        Slide(path, channels=[0])


@pytest.mark.parametrize("options", [{"channels": [2, 0]}, {"channels": [1], "scale_to_8bit": (100, 60_000)}])
def test_tiles_of_channels_are_decoded_when_they_are_used(tmp_path, options, monkeypatch):
    path = write_ome(tmp_path / "a.ome.tif")
    with Slide(path, **options) as slide:
        whole, resampled = slide.numpy(level=0), slide.numpy(downsample=1.5)
        lazy, shrunk = slide.image(level=0, keep_tiles=True), slide.image(downsample=1.5, keep_tiles=True)
        assert lazy.interpretation == slide.image(level=0).interpretation
        decoded = []
        decode = TiffTiles.decode
        monkeypatch.setattr(TiffTiles, "decode", lambda self, index: decoded.append(index) or decode(self, index))
    corner = lazy.crop(0, 0, 9, 9).numpy().reshape(9, 9, -1)
    assert len(decoded) == len(options["channels"])
    np.testing.assert_array_equal(corner, whole[:9, :9])
    np.testing.assert_array_equal(lazy.numpy().reshape(whole.shape), whole)
    np.testing.assert_array_equal(shrunk.numpy().reshape(resampled.shape), resampled)


def test_large_levels_of_channels_are_lazy(tmp_path, monkeypatch):
    monkeypatch.setattr("wsidata.formats.tiff.reader.DECODED_AT_ONCE_BYTES", 1000)
    with Slide(write_ome(tmp_path / "a.ome.tif"), channels=[0, 1]) as slide:
        assert slide.image(level=0).get_typeof("tile-width")
        np.testing.assert_array_equal(slide.image(level=0).numpy(), slide.numpy(level=0))


def test_a_real_stack():
    path = SLIDES / "2048x2048_ome6_tiled.ome.tif"
    if not path.exists():
        pytest.skip(f"needs {path}")
    with tifffile.TiffFile(path) as tiff, Slide(path, channels=[2, 0]) as slide:
        assert [level.size for level in slide.levels] == [(2048, 2048), (1024, 1024)]
        assert slide.mpp is None, "its physical size is 1 'pixel'"
        for level in range(2):
            expected = tiff.series[0].levels[level].asarray()[[2, 0]]
            np.testing.assert_array_equal(slide.numpy(level=level), np.moveaxis(expected, 0, 2))


def never_written(path, index=0):
    """The first tile of every directory loses its place."""
    with tifffile.TiffFile(path, mode="r+") as tiff:
        for page in tiff.pages:
            for name in ("TileOffsets", "TileByteCounts"):
                tag = page.aspage().tags[name]
                tag.overwrite([0 if number == index else value for number, value in enumerate(tag.value)])


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_tiles_of_channels_never_written_have_no_light(tmp_path, dtype):
    path = tmp_path / "a.ome.tif"
    stack = (STACK[:2] // 300).astype(dtype)
    tifffile.imwrite(path, stack, tile=(64, 64), photometric="minisblack", metadata={"axes": "CYX"})
    never_written(path)
    with Slide(path, channels=[1]) as slide:
        assert (slide.numpy()[:64, :64] == 0).all()
        np.testing.assert_array_equal(slide.numpy()[64:, 64:, 0], stack[1, 64:, 64:])


@pytest.mark.parametrize(("dtype", "high"), [("uint16", 20_000), ("uint16", 70_000), ("float32", 0.5)])
def test_tiles_of_deep_images_never_written_are_white(tmp_path, dtype, high):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.zeros((150, 201, 3), dtype), tile=(64, 64), photometric="rgb", metadata=None)
    never_written(path)
    with Slide(path, scale_to_8bit=(0, high)) as slide:
        blank = slide.numpy()[:64, :64]
        assert (blank == round(min(high, np.iinfo(dtype).max if dtype == "uint16" else high) / high * 255)).all()
        assert (slide.numpy()[64:, 64:] == 0).all()
