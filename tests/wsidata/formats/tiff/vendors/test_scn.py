"""Leica SCN: the scanned region is read, not the photo of the glass. OpenSlide opens the same files."""

import numpy as np
import pytest
import tifffile

from wsidata.errors import ForeignFormatError, SlideError, UnreadableImageError, UnsupportedImageError
from wsidata.formats.tiff.reader import TiffPyramid
from wsidata.slides.slide import Slide

openslide = pytest.importorskip("openslide")

NAMESPACE = "http://www.leica-microsystems.com/scn/2010/10/01"
GLASS_NM = (25_000_000, 75_000_000)


def picture(width, height, seed=0):
    y, x = np.mgrid[0:height, 0:width]
    rng = np.random.default_rng(seed)
    return np.stack([x % 251, y % 241, rng.integers(80, 120, (height, width))], -1).astype(np.uint8)


def image_xml(name, sizes, first_ifd, *, offset_nm, view_nm, z_planes=1, channels=1):
    dimensions, ifd = "", first_ifd
    for r, (width, height) in enumerate(sizes):
        for z in range(z_planes):
            for c in range(channels):
                extra = (f' z="{z}"' if z_planes > 1 else "") + (f' c="{c}"' if channels > 1 else "")
                dimensions += f'<dimension sizeX="{width}" sizeY="{height}" r="{r}"{extra} ifd="{ifd}"/>'
                ifd += 1
    settings = "".join(
        f'<channel index="{c}" name="{("405|Empty", "L5|Empty")[c]}" rgb="#0000ff"/>' for c in range(channels)
    )
    settings = f"<channelSettings>{settings}</channelSettings>" if channels > 1 else ""
    source = "fluorescence" if channels > 1 else "brightfield"
    return (
        f'<image name="{name}"><creationDate>2010-11-19T08:02:08Z</creationDate><device model="SCN400" version="1"/>'
        f'<pixels sizeX="{sizes[0][0]}" sizeY="{sizes[0][1]}">{dimensions}</pixels>'
        f'<view sizeX="{view_nm[0]}" sizeY="{view_nm[1]}" offsetX="{offset_nm[0]}" offsetY="{offset_nm[1]}"/>'
        f"<scanSettings><objectiveSettings><objective>20</objective></objectiveSettings>{settings}<illuminationSettings>"
        f"<numericalAperture>0.4</numericalAperture><illuminationSource>{source}</illuminationSource>"
        "</illuminationSettings></scanSettings></image>"
    )  # fmt: skip


def write_scn(path, images_xml, pages):
    xml = (
        f'<?xml version="1.0"?><scn xmlns="{NAMESPACE}" uuid="urn:uuid:1"><collection name="c" uuid="urn:uuid:2" '
        f'sizeX="{GLASS_NM[0]}" sizeY="{GLASS_NM[1]}"><barcode>Yg==</barcode>{images_xml}</collection></scn>'
    )
    with tifffile.TiffWriter(path, bigtiff=True) as tiff:
        for index, pixels in enumerate(pages):
            options = {} if pixels.ndim == 3 else {"photometric": "minisblack"}
            options = {"photometric": "rgb", "compression": "jpeg", "compressionargs": {"level": 90}} | options
            tiff.write(pixels, tile=(64, 64), metadata=None, software="Leica", description=xml if index == 0 else None,
                       **options)  # fmt: skip
    return path


MACRO = image_xml("macro", [(50, 150), (25, 75)], 0, offset_nm=(0, 0), view_nm=GLASS_NM)
MACRO_PAGES = [picture(50, 150, 1), picture(25, 75, 2)]


@pytest.fixture
def scn(tmp_path):
    """250 nm/px, 400x300 and 100x75: a step of 4."""
    region = image_xml(
        "image_1", [(400, 300), (100, 75)], 2, offset_nm=(5_000_000, 9_000_000), view_nm=(100_000, 75_000)
    )
    pages = [*MACRO_PAGES, picture(400, 300), picture(400, 300)[::4, ::4]]
    return write_scn(tmp_path / "a.scn", MACRO + region, pages)


def test_the_scanned_region_is_read_not_the_photo_of_the_glass(scn):
    with tifffile.TiffFile(scn) as tiff, Slide(scn) as slide:
        assert tiff.series[0].shape == (150, 50, 3), "tifffile's first image is the photo"
        assert [level.size for level in slide.levels] == [(400, 300), (100, 75)]
        assert [level.downsample for level in slide.levels] == [1, 4]
        assert slide.kind == "scn"
        for level, page in enumerate((2, 3)):
            np.testing.assert_array_equal(slide.numpy(level=level), tiff.pages[page].asarray())
        np.testing.assert_array_equal(slide.associated_images["macro"].numpy(), tiff.pages[0].asarray())


def test_spacing_is_the_size_of_the_view_in_nanometres(scn):
    with Slide(scn) as slide:
        assert slide.mpp == pytest.approx((0.25, 0.25))
        assert slide.mpp_source == "Leica XML (view size)"
        assert slide.magnification == 20


def test_openslide_reads_the_same_file_alike(scn):
    theirs = openslide.OpenSlide(str(scn))
    assert theirs.properties["openslide.vendor"] == "leica"
    x, y = int(theirs.properties["openslide.bounds-x"]), int(theirs.properties["openslide.bounds-y"])
    expected = np.asarray(theirs.read_region((x + 30, y + 20), 0, (200, 100)))[..., :3]
    with Slide(scn) as slide:
        assert slide.reader != "openslide"
        np.testing.assert_array_equal(slide.read_region(30, 20, 200, 100), expected)


@pytest.fixture
def two_regions(tmp_path):
    xml = MACRO
    for number, offset in enumerate([(5_000_000, 9_000_000), (5_200_000, 9_100_000)]):
        xml += image_xml(f"image_{number}", [(400, 300)], 2 + number, offset_nm=offset, view_nm=(100_000, 75_000))
    return write_scn(tmp_path / "a.scn", xml, [*MACRO_PAGES, picture(400, 300), picture(400, 300, 1)])


def test_two_regions_are_put_in_their_places_by_openslide(two_regions):
    with pytest.raises(ForeignFormatError, match=r"2 scanned regions \(0: image_0, 1: image_1\)"):
        TiffPyramid(two_regions)
    with Slide(two_regions) as slide:
        assert (slide.reader, slide.kind) == ("openslide", "leica")
        assert (slide.width, slide.height) == (1200, 700), "from the first region's corner to the second's"
        pixels = slide.numpy(level=0)
        np.testing.assert_array_equal(pixels[:300, :400], tifffile.imread(two_regions, key=2))
        np.testing.assert_array_equal(pixels[400:, 800:], tifffile.imread(two_regions, key=3))
        assert (pixels[:300, 400:] == 255).all(), "white between them"


def test_two_regions_are_refused_without_openslide(two_regions, monkeypatch):
    monkeypatch.setattr("wsidata.formats.openslide.find_spec", lambda name: None)
    with pytest.raises(ForeignFormatError, match=r"a\.scn' is an SCN of 2 .*pip install 'slidestream\[openslide\]'"):
        Slide(two_regions)


def test_channels_are_chosen_by_name(tmp_path):
    blue, green = picture(100, 80)[..., 0], picture(100, 80)[..., 1]
    xml = image_xml("fl", [(100, 80)], 0, offset_nm=(1, 1), view_nm=(50_000, 40_000), channels=2)
    path = write_scn(tmp_path / "a.scn", xml, [blue, green])
    with pytest.raises(UnsupportedImageError, match=r"stack of 2 planes .*0: '405\|Empty', 1: 'L5\|Empty'"):
        Slide(path)
    with Slide(path, channels=["L5|Empty"]) as slide:
        assert slide.channel_names == ("L5|Empty",)
        assert slide.mpp == pytest.approx((0.5, 0.5))
        np.testing.assert_array_equal(slide.numpy()[..., 0], tifffile.imread(path, key=1))


def test_focal_planes_are_refused(tmp_path):
    xml = image_xml("z", [(100, 80)], 0, offset_nm=(1, 1), view_nm=(50_000, 40_000), z_planes=2)
    path = write_scn(tmp_path / "a.scn", xml, [picture(100, 80), picture(100, 80, 1)])
    with pytest.raises(UnsupportedImageError, match="focal planes"):
        Slide(path)


def test_a_glass_without_a_region_is_refused(tmp_path):
    with pytest.raises(UnsupportedImageError, match="without a scanned region"):
        Slide(write_scn(tmp_path / "a.scn", MACRO, MACRO_PAGES))


def test_a_directory_that_is_not_there_is_damage(tmp_path):
    region = image_xml("r", [(400, 300)], 7, offset_nm=(1, 1), view_nm=(100_000, 75_000))
    with pytest.raises(UnreadableImageError, match="names TIFF directory 7 of 2"):
        Slide(write_scn(tmp_path / "a.scn", MACRO + region, MACRO_PAGES))


def test_a_directory_of_another_width_is_damage(tmp_path):
    region = image_xml("r", [(400, 300)], 0, offset_nm=(1, 1), view_nm=(100_000, 75_000))
    with pytest.raises(UnreadableImageError, match="directory 0 is 50 pixels wide, its XML says 400"):
        Slide(write_scn(tmp_path / "a.scn", MACRO + region, MACRO_PAGES))


def test_senseless_xml_is_damage(tmp_path):
    with pytest.raises(SlideError, match=r"a\.scn"):
        Slide(
            write_scn(tmp_path / "a.scn", "<image><pixels><dimension ifd='x' sizeX='y'/></pixels></image>", MACRO_PAGES)
        )


def test_a_region_and_a_focal_plane_are_chosen(two_regions, tmp_path):
    for number in range(2):
        with Slide(two_regions, series=number) as slide, tifffile.TiffFile(two_regions) as tiff:
            np.testing.assert_array_equal(slide.numpy(), tiff.pages[2 + number].asarray())
    with pytest.raises(UnsupportedImageError, match=r"series=2 is none of them \(0: image_0, 1: image_1\)"):
        Slide(two_regions, series=2)
    xml = image_xml("image_1", [(400, 300)], 0, offset_nm=(0, 9_000_000), view_nm=(100_000, 75_000), z_planes=2)
    path = write_scn(tmp_path / "z.scn", xml, [picture(400, 300), picture(400, 300, 1)])
    with Slide(path, z=1) as slide, tifffile.TiffFile(path) as tiff:
        np.testing.assert_array_equal(slide.numpy(), tiff.pages[1].asarray())
