"""Which directories are levels: the traps of each dialect."""

import numpy as np
import pytest
import tifffile

from wsidata.errors import SlideError, UnsupportedImageError
from wsidata.slides.slide import Slide
from wsidata.synthetic.slides import write_pixels

openslide = pytest.importorskip("openslide")

RGB = np.random.default_rng(12).integers(0, 256, (300, 420, 3), dtype=np.uint8)
TILED = {"tile": (64, 64), "photometric": "rgb", "metadata": None}


@pytest.mark.parametrize("size", [(768, 512), (640, 896), (1152, 384)])
def test_philips_padding_is_clipped_as_openslide_clips_it(tmp_path, size):
    """Levels of 640 columns and tiles of 128: 640, 384 for 320, 256 for 160, 128 for 80."""
    pixels = np.random.default_rng(1).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    path = write_pixels(tmp_path / "a.tif", pixels, vendor="philips", tile=128, levels=4, mpp=0.243)
    theirs = openslide.OpenSlide(str(path))
    assert theirs.properties["openslide.vendor"] == "philips"
    with Slide(path) as slide:
        assert tuple(level.size for level in slide.levels) == theirs.level_dimensions
        assert [level.downsample for level in slide.levels] == pytest.approx(theirs.level_downsamples)
        assert slide.mpp == pytest.approx((0.243, 0.243))
        assert float(theirs.properties["openslide.mpp-x"]) == pytest.approx(0.243)
        for level in range(4):
            width, height = slide.levels[level].size
            expected = np.asarray(theirs.read_region((0, 0), level, (width, height)))[..., :3]
            np.testing.assert_array_equal(slide.numpy(level=level), expected)


def test_padded_levels_of_a_philips_tiff_that_lost_its_spacings_are_not_measured(tmp_path):
    pixels = np.random.default_rng(1).integers(0, 256, (256, 512, 3), dtype=np.uint8)
    path = write_pixels(tmp_path / "a.tif", pixels, vendor="philips", tile=64, levels=3, mpp=0.25)
    with tifffile.TiffFile(path, mode="r+") as tiff:
        tag = tiff.pages[0].tags["ImageDescription"]
        tag.overwrite(tag.value.replace("DICOM_PIXEL_SPACING", "DICOM_PIXEL_SPICING"))
    with pytest.raises(UnsupportedImageError, match=r"Philips TIFF whose XML does not state the spacing of each level"):
        Slide(path)


def test_two_images_of_one_size_are_refused_not_halved(tmp_path):
    path = tmp_path / "a.ome.tif"
    with tifffile.TiffWriter(path, ome=True) as tiff:
        for name in ("section 1", "section 2"):
            tiff.write(RGB, photometric="rgb", tile=(64, 64), metadata={"Name": name})
    with pytest.raises(UnsupportedImageError, match=r"2 images of similar size \(0: 'section 1'.*1: 'section 2'"):
        Slide(path)


def test_a_label_in_an_ome_tiff_is_beside_the_slide(tmp_path):
    path = tmp_path / "a.ome.tif"
    with tifffile.TiffWriter(path, ome=True) as tiff:
        tiff.write(RGB, photometric="rgb", tile=(64, 64), metadata={"Name": "slide"})
        tiff.write(RGB[:250], photometric="rgb", metadata={"Name": "label image"})
        tiff.write(RGB[:60, :60], photometric="rgb", metadata={"Name": "other"})
    with Slide(path) as slide:
        np.testing.assert_array_equal(slide.numpy(), RGB)
        assert list(slide.associated_images) == ["label image", "other"]
        np.testing.assert_array_equal(slide.associated_images["other"].numpy(), RGB[:60, :60])


def test_a_small_image_before_the_slide_is_not_taken_for_it(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as tiff:
        tiff.write(RGB[::8, ::8], photometric="rgb", metadata=None)
        tiff.write(RGB, **TILED)
    with pytest.raises(UnsupportedImageError, match="does not say which is the slide"):
        Slide(tmp_path / "a.tif")


@pytest.mark.parametrize("subifds", [False, True])
@pytest.mark.parametrize("steps", [(3,), (2, 4, 8), (4, 16, 32), (2, 3, 7)])
def test_levels_of_uneven_steps_are_all_found_with_true_downsamples(tmp_path, steps, subifds):
    with tifffile.TiffWriter(tmp_path / "a.tif") as tiff:
        tiff.write(RGB, subifds=len(steps) if subifds else None, **TILED)
        for step in steps:
            tiff.write(RGB[: 300 // step, : 420 // step], subfiletype=1, **TILED)
    with Slide(tmp_path / "a.tif") as slide:
        assert [level.size for level in slide.levels] == [(420 // step, 300 // step) for step in (1, *steps)]
        for level, step in enumerate(steps, start=1):
            assert slide.levels[level].downsample_x == 420 / (420 // step)
            assert slide.levels[level].downsample_y == 300 / (300 // step)
            np.testing.assert_array_equal(slide.numpy(level=level), RGB[: 300 // step, : 420 // step])


def test_a_reduced_image_of_another_shape_is_no_level(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as tiff:
        tiff.write(RGB, **TILED)
        tiff.write(RGB[:100, :100], subfiletype=1, **TILED)
    with Slide(tmp_path / "a.tif") as slide:
        assert slide.level_count == 1
        assert len(slide.associated_images) == 1


def test_focal_planes_of_an_svs_are_refused(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.svs") as tiff:
        description = "Aperio Image Library v12\r\n420x300|MPP = 0.25"
        tiff.write(RGB, description=description, **TILED)
        tiff.write(RGB[::4, ::4], photometric="rgb", metadata=None, description=description)
        tiff.write(255 - RGB, description=description, **TILED)
    with pytest.raises(UnsupportedImageError, match=r"stack of 2 planes \(axes ZYXS"):
        Slide(tmp_path / "a.svs")


def test_an_ome_tiff_spread_over_files_is_refused_as_such(tmp_path):
    xml = (
        '<?xml version="1.0" encoding="UTF-8"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" '
        'UUID="urn:uuid:{uuid}"><Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYCZT" Type="uint8" '
        'SizeX="420" SizeY="300" SizeC="2" SizeZ="1" SizeT="1"><Channel ID="C:0" Name="a"/><Channel ID="C:1" Name="b"/>'
        '<TiffData FirstC="0" IFD="0" PlaneCount="1"><UUID FileName="a.ome.tif">urn:uuid:1</UUID></TiffData>'
        '<TiffData FirstC="1" IFD="0" PlaneCount="1"><UUID FileName="b.ome.tif">urn:uuid:2</UUID></TiffData>'
        "</Pixels></Image></OME>"
    )
    for uuid, name in ((1, "a"), (2, "b")):
        tifffile.imwrite(tmp_path / f"{name}.ome.tif", RGB[..., uuid], photometric="minisblack", metadata=None,
                         description=xml.format(uuid=uuid))  # fmt: skip
    with pytest.raises(UnsupportedImageError, match=r"a\.ome\.tif' is spread over several files"):
        Slide(tmp_path / "a.ome.tif", channels=[0])
    (tmp_path / "b.ome.tif").unlink()
    with pytest.raises(UnsupportedImageError, match=r"its planes lie in others, too \('b\.ome\.tif'\)"):
        Slide(tmp_path / "a.ome.tif", channels=[0])


def test_rgb_in_planes_with_levels_in_subifds(tmp_path):
    path = tmp_path / "a.ome.tif"
    planes, options = np.moveaxis(RGB, 2, 0), {"photometric": "rgb", "planarconfig": "separate", "tile": (64, 64)}
    with tifffile.TiffWriter(path, ome=True) as tiff:
        tiff.write(planes, subifds=1, metadata={"axes": "SYX"}, compression="lzw", **options)
        tiff.write(planes[:, ::2, ::2], subfiletype=1, compression="lzw", **options)
    with Slide(path) as slide:
        assert [level.size for level in slide.levels] == [(420, 300), (210, 150)]
        np.testing.assert_array_equal(slide.numpy(level=0), RGB)
        np.testing.assert_array_equal(slide.numpy(level=1), RGB[::2, ::2])


def test_levels_of_an_ome_tiff_that_cannot_be_the_same_image_are_refused(tmp_path):
    for name, smaller in (("shape", RGB[:100, :50]), ("larger", np.tile(RGB, (2, 2, 1)))):
        path = tmp_path / f"{name}.ome.tif"
        with tifffile.TiffWriter(path, ome=True) as tiff:
            tiff.write(RGB, subifds=2, photometric="rgb", tile=(64, 64), metadata={"axes": "YXS"})
            tiff.write(RGB[::2, ::2], subfiletype=1, **TILED)
            tiff.write(smaller, subfiletype=1, **TILED)
        with pytest.raises(UnsupportedImageError, match=r"is stored as a smaller version of one of 420x300 px, which"):
            Slide(path)


def test_levels_of_an_ome_tiff_come_finest_first(tmp_path):
    path = tmp_path / "a.ome.tif"
    with tifffile.TiffWriter(path, ome=True) as tiff:
        tiff.write(RGB, subifds=2, photometric="rgb", tile=(64, 64), metadata={"axes": "YXS"})
        tiff.write(RGB[::4, ::4], subfiletype=1, **TILED)
        tiff.write(RGB[::2, ::2], subfiletype=1, **TILED)
    with Slide(path) as slide:
        assert [level.size for level in slide.levels] == [(420, 300), (210, 150), (105, 75)]
        np.testing.assert_array_equal(slide.numpy(level=1), RGB[::2, ::2])


@pytest.mark.parametrize("metadata", [None, {}])
@pytest.mark.parametrize("steps", [(8,), (4, 32), (2, 2, 4), (2, 4, 4)])
def test_levels_at_any_step_and_once_each_however_tifffile_was_told_to_write_them(tmp_path, steps, metadata):
    options = {**TILED, "metadata": metadata}
    with tifffile.TiffWriter(tmp_path / "a.tif") as tiff:
        tiff.write(RGB, **options)
        for step in steps:
            tiff.write(RGB[: 300 // step, : 420 // step], subfiletype=1, **options)
    with Slide(tmp_path / "a.tif") as slide:
        assert [level.size for level in slide.levels] == [(420 // step, 300 // step) for step in (1, *sorted({*steps}))]


OME = "http://www.openmicroscopy.org/Schemas/OME/2016-06"


def ome_set(me):
    """The XML that each file of a set carries: image 0 is in a.ome.tif, image 1, coarser, in b.ome.tif."""
    images = "".join(
        f'<Image ID="Image:{number}"><Pixels ID="Pixels:{number}" DimensionOrder="XYCZT" Type="uint8" SizeX="{width}" '
        f'SizeY="{height}" SizeC="3" SizeZ="1" SizeT="1" PhysicalSizeX="{mpp}" PhysicalSizeY="{mpp}">'
        f'<Channel ID="Channel:{number}:0" SamplesPerPixel="3"/><TiffData IFD="0" PlaneCount="1">'
        f'<UUID FileName="{name}.ome.tif">urn:uuid:{name}</UUID></TiffData></Pixels></Image>'
        for number, (name, height, width, mpp) in enumerate([("a", 300, 420, 0.25), ("b", 150, 210, 0.5)])
    )
    return f'<?xml version="1.0" encoding="UTF-8"?><OME xmlns="{OME}" UUID="urn:uuid:{me}">{images}</OME>'


def test_a_file_of_an_ome_set_is_not_another_one_of_the_set(tmp_path):
    options = {"photometric": "rgb", "tile": (64, 64), "metadata": None}
    tifffile.imwrite(tmp_path / "a.ome.tif", RGB, description=ome_set("a"), **options)
    tifffile.imwrite(tmp_path / "b.ome.tif", RGB[::2, ::2], description=ome_set("b"), **options)
    with Slide(tmp_path / "a.ome.tif") as slide:
        assert slide.mpp == (0.25, 0.25)
        np.testing.assert_array_equal(slide.numpy(), RGB)
    with pytest.raises(UnsupportedImageError, match=r"b\.ome\.tif' is spread over several files.*lies in another one"):
        Slide(tmp_path / "b.ome.tif")
    (tmp_path / "a.ome.tif").unlink()
    with Slide(tmp_path / "b.ome.tif") as slide:
        assert slide.mpp == (0.5, 0.5)
        np.testing.assert_array_equal(slide.numpy(), RGB[::2, ::2])


@pytest.mark.parametrize("kind", ["mmstack", "ndtiff"])
def test_parts_of_a_micro_manager_set_are_refused_before_their_others_are_opened(tmp_path, monkeypatch, kind):
    tifffile.imwrite(tmp_path / "a.tif", RGB, **TILED)
    monkeypatch.setattr(tifffile.TiffFile, f"is_{kind}", True)
    monkeypatch.setattr(tifffile.TiffFile, f"_series_{kind}", lambda _: pytest.fail("it looked for other files"))
    with pytest.raises(SlideError, match=rf"a\.tif' is a TIFF of the kind '{kind}'.*Save it as OME-TIFF"):
        Slide(tmp_path / "a.tif")
