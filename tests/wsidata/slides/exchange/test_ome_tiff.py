"""A pyramid that was written is read as what it was made from, here and by tifffile and OpenSlide."""

import numpy as np
import pytest
import tifffile

from wsidata.errors import UnreadableImageError
from wsidata.slides.exchange.ome_tiff import write_ome_tiff
from wsidata.slides.slide import Slide
from wsidata.synthetic.slides import write_pixels

PIXELS = np.random.default_rng(0).integers(0, 256, (357, 443, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pyramid")
    return write_pixels(folder / "a.svs", PIXELS, vendor="aperio", tile=64, mpp=0.5, compression="deflate")


@pytest.mark.parametrize("compression", ["deflate", "lzw", "none"])
def test_pixels_resolution_and_power_are_kept(path, tmp_path, compression):
    with Slide(path) as slide:
        out = write_ome_tiff(slide, tmp_path / "in" / "b.ome.tif", compression=compression, tile_px=64)
    with Slide(out) as found, tifffile.TiffFile(out) as tiff:
        assert (found.kind, found.mpp, found.mpp_source) == ("ome", (0.5, 0.5), "OME-XML (PhysicalSizeX)")
        assert found.magnification == 20
        assert [level.size for level in found.levels] == [(443, 357), (221, 178), (110, 89), (55, 44)]
        assert not found.associated_images
        np.testing.assert_array_equal(found.numpy(), PIXELS)
        np.testing.assert_array_equal(tiff.series[0].asarray(), PIXELS)
        halved = PIXELS[:356, :442].reshape(178, 2, 221, 2, 3).mean((1, 3))
        assert np.abs(found.numpy(level=1) - halved).max() <= 1
        assert len(tiff.series[0].levels) == 4
        assert tiff.ome_metadata.isascii()
    openslide = pytest.importorskip("openslide")
    with openslide.OpenSlide(out) as theirs:
        assert float(theirs.properties["openslide.mpp-x"]) == pytest.approx(0.5)
        np.testing.assert_array_equal(np.asarray(theirs.read_region((0, 0), 0, (443, 357)))[..., :3], PIXELS)


def test_a_region_at_another_resolution(path, tmp_path):
    with Slide(path) as slide:
        write_ome_tiff(slide, tmp_path / "b.ome.tif", region=(40, 41, 200, 100), mpp=1.7)
        expected = slide.numpy(mpp=1.7)[12:41, 12:71]  # 3.4 pixels each
        for region in ((-1, 0, 20, 20), (0, 0, 444, 20), (0, 0, 20, 1), (0, 0, float("nan"), 20)):
            with pytest.raises(ValueError, match="must lie inside slide"):
                write_ome_tiff(slide, tmp_path / "c.ome.tif", region=region, mpp=1.7)
    with Slide(tmp_path / "b.ome.tif") as found:
        assert (found.mpp, found.magnification) == ((1.7, 1.7), 5.88235)
        np.testing.assert_array_equal(found.numpy(), expected)


def test_channels_are_planes_with_names(tmp_path):
    stack = np.random.default_rng(1).integers(0, 60_000, (3, 90, 130), dtype=np.uint16)
    names = ["DAPI", "β <x>", "CD3"]
    tifffile.imwrite(
        tmp_path / "a.ome.tif", stack, photometric="minisblack", metadata={"axes": "CYX", "Channel": {"Name": names}}
    )
    with Slide(tmp_path / "a.ome.tif", channels=[2, 1]) as slide:
        write_ome_tiff(slide, tmp_path / "b.ome.tif", tile_px=64)
        with pytest.raises(ValueError, match="JPEG is for 8-bit RGB"):
            write_ome_tiff(slide, tmp_path / "c.ome.tif", compression="jpeg")
    with Slide(tmp_path / "b.ome.tif", channels=["CD3", "β <x>"]) as found:
        assert found.mpp is None
        np.testing.assert_array_equal(found.numpy(), stack[[2, 1]].transpose(1, 2, 0))
    with tifffile.TiffFile(tmp_path / "b.ome.tif") as tiff:
        assert all(page.tags["ResolutionUnit"].value == 1 for page in tiff.pages)
        np.testing.assert_array_equal(tiff.series[0].asarray(), stack[[2, 1]])


def test_nothing_is_lost(path, tmp_path):
    """Existing files and the slide itself are left alone, and a damaged slide leaves no file."""
    (tmp_path / "b.ome.tif").write_bytes(b"precious")
    data = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as tiff:
        start, count = tiff.pages[0].dataoffsets[9], tiff.pages[0].databytecounts[9]
    data[start + 20 : start + count] = bytes(count - 20)
    (tmp_path / "damaged.svs").write_bytes(data)
    with Slide(path) as slide:
        with pytest.raises(FileExistsError, match="overwrite=True"):
            write_ome_tiff(slide, tmp_path / "b.ome.tif")
        with pytest.raises(FileExistsError, match="is the slide itself"):
            write_ome_tiff(slide, path, overwrite=True)
        with pytest.raises(ValueError, match=r"Let it end in \.ome\.tif"):
            write_ome_tiff(slide, tmp_path / "b.png")
    with Slide(tmp_path / "damaged.svs") as slide, pytest.raises(UnreadableImageError, match=r"damaged\.svs"):
        write_ome_tiff(slide, tmp_path / "b.ome.tif", overwrite=True)
    assert (tmp_path / "b.ome.tif").read_bytes() == b"precious"
    assert sorted(one.name for one in tmp_path.iterdir()) == ["b.ome.tif", "damaged.svs"]
