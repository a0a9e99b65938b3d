"""Ventana BIF: tiles that overlap are never shown side by side. OpenSlide opens the same files."""

import numpy as np
import pytest
import tifffile

from wsidata.errors import ForeignFormatError, UnsupportedImageError
from wsidata.formats.tiff.reader import TiffPyramid
from wsidata.slides.slide import Slide

openslide = pytest.importorskip("openslide")

TILE = 64
COLUMNS, ROWS = 3, 2


def picture(seed=0):
    y, x = np.mgrid[0 : ROWS * TILE, 0 : COLUMNS * TILE]
    rng = np.random.default_rng(seed)
    return np.stack([x % 251, y % 241, rng.integers(80, 120, x.shape)], -1).astype(np.uint8)


def scan_xml(z_layers=1):
    return (
        f'<iScan Magnification="20" ScanRes="0.465" Z-layers="{z_layers}" Z-spacing="1" UnitNumber="B1">'
        f'<AOI0 Left="0" Top="0" Right="10" Bottom="10"/></iScan>'
    )  # fmt: skip


def encode_xml(overlap_x, overlap_y):
    """Camera tiles are numbered from the bottom left, to and fro."""

    def number(column, row):
        up = ROWS - 1 - row
        return up * COLUMNS + (COLUMNS - column if up % 2 else column + 1)

    joints = ""
    for row in range(ROWS):
        for column in range(COLUMNS):
            if column + 1 < COLUMNS:
                left, right = number(column, row), number(column + 1, row)
                joints += (f'<TileJointInfo FlagJoined="1" Confidence="98" Direction="RIGHT" Tile1="{left}" '
                           f'Tile2="{right}" OverlapX="{overlap_x}" OverlapY="0"/>')  # fmt: skip
            if row + 1 < ROWS:
                lower, upper = number(column, row + 1), number(column, row)
                joints += (f'<TileJointInfo FlagJoined="1" Confidence="98" Direction="UP" Tile1="{lower}" '
                           f'Tile2="{upper}" OverlapX="0" OverlapY="{overlap_y}"/>')  # fmt: skip
    return (
        f'<EncodeInfo Ver="2"><SlideInfo/><SlideStitchInfo><ImageInfo AOIScanned="1" AOIIndex="0" NumRows="{ROWS}" '
        f'NumCols="{COLUMNS}" Width="{TILE}" Height="{TILE}" Pos-X="0" Pos-Y="0">{joints}</ImageInfo></SlideStitchInfo>'
        '<AoiOrigin><AOI0 OriginX="0" OriginY="0"/></AoiOrigin></EncodeInfo>'
    )


def write_bif(path, *, overlap=(0, 0), joints=True, z_layers=1, software="ScanOutputManager 1.1.0.15854", levels=2):
    def xmp(text):
        return [(700, 7, len(text), text.encode(), True)]

    jpeg = {"tile": (TILE, TILE), "photometric": "rgb", "compression": "jpeg", "metadata": None}
    pixels = picture()
    with tifffile.TiffWriter(path, bigtiff=True) as tiff:
        tiff.write(picture(3)[:40, :50], photometric="rgb", description="Label Image", software=software,
                   extratags=xmp(scan_xml(z_layers)), metadata=None)  # fmt: skip
        tiff.write(picture(4)[:30, :20], photometric="rgb", description="Thumbnail", metadata=None)
        for level in range(levels):
            text = encode_xml(*overlap) if joints else "<EncodeInfo Ver='2'/>"
            step = 2**level
            tiff.write(pixels[::step, ::step], description=f"level={level} mag={20 / step:g} quality=95",
                       extratags=xmp(text) if level == 0 else (), **jpeg)  # fmt: skip
    return path


def test_tiles_without_overlap_are_the_image(tmp_path):
    path = write_bif(tmp_path / "a.bif")
    with Slide(path) as slide:
        assert [level.size for level in slide.levels] == [(192, 128), (96, 64)]
        assert (slide.kind, slide.mpp, slide.magnification) == ("bif", (0.465, 0.465), 20)
        assert slide.mpp_source == "iScan XMP (ScanRes)"
        assert slide.reader != "openslide"
        for level in range(2):
            np.testing.assert_array_equal(slide.numpy(level=level), tifffile.imread(path, key=2 + level))
        assert list(slide.associated_images) == ["macro", "thumbnail"]
        np.testing.assert_array_equal(slide.associated_images["thumbnail"].numpy(), picture(4)[:30, :20])
    theirs = openslide.OpenSlide(str(path))
    assert theirs.properties["openslide.vendor"] == "ventana"
    np.testing.assert_array_equal(
        np.asarray(theirs.read_region((0, 0), 0, (192, 128)))[..., :3], tifffile.imread(path, key=2)
    )


@pytest.mark.parametrize("software", ["ScanOutputManager 1.1.0.15854", "Some converter"])
def test_overlapping_tiles_are_stitched_by_openslide(tmp_path, software):
    path = write_bif(tmp_path / "a.bif", overlap=(10, 6), software=software)
    with pytest.raises(ForeignFormatError, match=r"a\.bif' is a Ventana BIF whose tiles overlap"):
        TiffPyramid(path)
    with Slide(path) as slide:
        assert (slide.kind, slide.reader) == ("ventana", "openslide")
        assert slide.width < 192
        assert slide.mpp == (0.465, 0.465)
        assert slide.magnification == 20


def test_overlapping_tiles_are_refused_without_openslide(tmp_path, monkeypatch):
    monkeypatch.setattr("wsidata.formats.openslide.find_spec", lambda name: None)
    path = write_bif(tmp_path / "a.bif", overlap=(10, 0))
    with pytest.raises(ForeignFormatError, match=r"tissue on the seams would come twice.*slidestream\[openslide\]"):
        Slide(path)


def test_unstated_overlaps_are_not_taken_for_none(tmp_path):
    with pytest.raises(ForeignFormatError, match="does not say by how much"):
        TiffPyramid(write_bif(tmp_path / "a.bif", joints=False))


def test_focal_planes_are_refused(tmp_path):
    with pytest.raises(UnsupportedImageError, match="3 focal planes"):
        Slide(write_bif(tmp_path / "a.bif", z_layers=3))


def test_a_bif_without_a_level_is_refused(tmp_path):
    with pytest.raises(UnsupportedImageError, match="without a level"):
        Slide(write_bif(tmp_path / "a.bif", levels=0))
