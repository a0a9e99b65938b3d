"""Akoya QPTIFF: each directory says what it is."""

import numpy as np
import pytest
import tifffile

from wsidata.errors import UnsupportedImageError
from wsidata.slides.slide import Slide

NAMES = ("DAPI", "Opal 520", "Opal 690")


def describe(kind, name=None):
    inside = f"<Name>{name}</Name><Color>0,0,255</Color>" if name else ""
    return (
        f'<?xml version="1.0" encoding="utf-16"?>\r\n<PerkinElmer-QPI-ImageDescription><DescriptionVersion>5'
        f"</DescriptionVersion><ImageType>{kind}</ImageType><SlideID>S1</SlideID><Objective>20x</Objective>{inside}"
        "</PerkinElmer-QPI-ImageDescription>"
    )


def plane(number, width=300, height=202, dtype=np.uint8):
    y, x = np.mgrid[0:height, 0:width]
    return ((x * (number + 1) + y) % (251 if dtype == np.uint8 else 4000)).astype(dtype)


def write_qptiff(path, *, brightfield=False, dtype=np.uint8, drop_plane=False):
    common = {"software": "PerkinElmer-QPI", "metadata": None, "resolutionunit": "CENTIMETER"}
    with tifffile.TiffWriter(path, bigtiff=True) as tiff:

        def level(step, kind):
            resolution = (20_000 / step, 20_000 / step)
            tiled = common | {"tile": (64, 64), "resolution": resolution}
            if brightfield:
                pixels = np.stack([plane(number) for number in range(3)], -1)[::step, ::step]
                tiff.write(pixels, photometric="rgb", compression="jpeg", description=describe(kind), **tiled)
                return
            for number, name in enumerate(NAMES[: 2 if drop_plane and step > 1 else 3]):
                pixels = plane(number, dtype=dtype)[::step, ::step]
                tiff.write(
                    pixels, photometric="minisblack", compression="lzw", description=describe(kind, name), **tiled
                )

        rgb = np.stack([plane(3)] * 3, -1)
        level(1, "FullResolution")
        tiff.write(rgb[::8, ::8], photometric="rgb", description=describe("Thumbnail"), **common)
        level(2, "ReducedResolution")
        level(4, "ReducedResolution")
        tiff.write(rgb[:90], photometric="rgb", description=describe("Overview"), **common)
        tiff.write(rgb[:80, :80], photometric="rgb", description=describe("Label"), **common)
    return path


def test_brightfield_levels_are_rgb(tmp_path):
    path = write_qptiff(tmp_path / "a.qptiff", brightfield=True)
    with Slide(path) as slide:
        assert [level.size for level in slide.levels] == [(300, 202), (150, 101), (75, 51)]
        assert slide.levels[2].downsample_y == 202 / 51, "51 is no half of 101: tifffile loses this level"
        assert (slide.kind, slide.magnification) == ("qptiff", 20)
        assert slide.mpp == pytest.approx((0.5, 0.5))
        for level, page in enumerate((0, 2, 3)):
            np.testing.assert_array_equal(slide.numpy(level=level), tifffile.imread(path, key=page))
        assert sorted(slide.associated_images) == ["label", "macro", "thumbnail"]
        assert slide.associated_images["macro"].height == 90


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_channels_are_chosen_by_name_or_number_in_the_requested_order(tmp_path, dtype):
    path = write_qptiff(tmp_path / "a.qptiff", dtype=dtype)
    with Slide(path, channels=["Opal 690", 0]) as slide:
        assert slide.channel_names == ("Opal 690", "DAPI")
        assert slide.reader == "tifffile"
        for level, step in enumerate((1, 2, 4)):
            pixels = slide.numpy(level=level)
            assert pixels.dtype == dtype
            np.testing.assert_array_equal(pixels[..., 0], plane(2, dtype=dtype)[::step, ::step])
            np.testing.assert_array_equal(pixels[..., 1], plane(0, dtype=dtype)[::step, ::step])
        np.testing.assert_array_equal(slide.read_region(60, 70, 20, 30), slide.numpy()[70:100, 60:80])
        assert (slide.read_region(-5, 0, 5, 5) == 0).all(), "no light outside"


def test_fluorescence_is_not_shown_as_rgb(tmp_path):
    with pytest.raises(UnsupportedImageError, match=r"stack of 3 planes .*0: 'DAPI', 1: 'Opal 520'.*channels=\[0\]"):
        Slide(write_qptiff(tmp_path / "a.qptiff"))


def test_unknown_channels_are_refused_by_name(tmp_path):
    path = write_qptiff(tmp_path / "a.qptiff")
    for wrong in ("CD8", 3, -1):
        with pytest.raises(UnsupportedImageError, match=rf"channel {wrong!r} does not exist.*2: 'Opal 690'"):
            Slide(path, channels=[wrong])


def test_a_level_that_does_not_say_so_is_not_dropped(tmp_path):
    path = write_qptiff(tmp_path / "a.qptiff", brightfield=True)
    with tifffile.TiffFile(path, mode="r+") as tiff:
        tag = tiff.pages[2].tags["ImageDescription"]
        tag.overwrite(tag.value.replace("ReducedResolution", "RedoubtResolution"))
    with pytest.raises(UnsupportedImageError, match="directory 2 of this QPTIFF says it is 'RedoubtResolution'"):
        Slide(path)


def test_levels_of_unlike_channels_are_refused(tmp_path):
    with pytest.raises(UnsupportedImageError, match="not the same number of channels"):
        Slide(write_qptiff(tmp_path / "a.qptiff", drop_plane=True), channels=[0])
