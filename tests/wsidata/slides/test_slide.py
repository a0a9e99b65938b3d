"""A slide from the outside: levels, spacing, pixels, life cycle."""

import gc
import os
import pickle
import warnings
from pathlib import Path

import numpy as np
import pytest
import pyvips
import tifffile
from places import SLIDES

from wsidata.errors import (
    ResolutionUnavailableError,
    SpacingConflictWarning,
    SpacingUnknownError,
    UnknownLevelError,
    UnreadableImageError,
    UnsupportedImageError,
)
from wsidata.slides.slide import Slide
from wsidata.synthetic.slides import write_pixels, write_slide


def real(name):
    path = SLIDES / name
    if not path.exists():
        pytest.skip(f"needs {path}")
    return path


def picture(width=700, height=500, seed=0):
    """Smooth colors with some texture, no two corners alike."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    base = np.stack([x * 200 / width, y * 200 / height, 120 + 60 * np.sin(x / 23) * np.cos(y / 31)], axis=-1)
    return (base + rng.integers(0, 30, (height, width, 1))).clip(0, 255).astype(np.uint8)


@pytest.fixture
def svs(tmp_path):
    return write_pixels(tmp_path / "a.svs", picture(), vendor="aperio", tile=64, levels=3, mpp=0.5)


def tifffile_level(path, level):
    with tifffile.TiffFile(path) as tiff:
        return tiff.series[0].levels[level].asarray()


@pytest.mark.slow
@pytest.mark.parametrize("vendor", ["generic", "aperio"])
@pytest.mark.parametrize("compression", ["jpeg", "jpeg2000", "deflate", "lzw", "zstd", "none"])
def test_pixels_of_every_level_equal_tifffiles(tmp_path, vendor, compression):
    path = write_pixels(tmp_path / "a.tif", picture(), vendor=vendor, tile=64, levels=3, compression=compression)
    with Slide(path) as slide:
        assert [level.size for level in slide.levels] == [(700, 500), (350, 250), (175, 125)]
        assert slide.reader == ("libjpeg-turbo" if compression == "jpeg" else "tifffile")
        for level in range(3):
            np.testing.assert_array_equal(slide.numpy(level=level), tifffile_level(path, level))


def test_levels_in_subifds_are_found(tmp_path):
    path = write_pixels(tmp_path / "a.tif", picture(), tile=64, levels=3, subifds=True)
    with Slide(path) as slide:
        assert [level.size for level in slide.levels] == [(700, 500), (350, 250), (175, 125)]
        assert slide.reader == "libjpeg-turbo"
        for level in range(3):
            np.testing.assert_array_equal(slide.numpy(level=level), tifffile_level(path, level))


def test_svs_thumbnail_label_and_macro_pages_are_not_levels(svs):
    with tifffile.TiffFile(svs) as tiff:
        assert len(tiff.pages) == 6
        assert not tiff.pages[1].is_tiled
    with Slide(svs) as slide:
        assert slide.level_count == 3
        np.testing.assert_array_equal(slide.numpy(level=1), tifffile.imread(svs, key=2))


def test_svs_without_a_thumbnail_keeps_its_second_page_as_a_level(tmp_path):
    path, pixels = tmp_path / "a.svs", picture(256, 256)
    with tifffile.TiffWriter(path) as tiff:
        for part in (pixels, pixels[::2, ::2], pixels[::4, ::4]):
            tiff.write(part, tile=(64, 64), photometric="rgb", metadata=None,
                       description="Aperio Image Library v1\r\n256x256|MPP = 0.25")  # fmt: skip
    with Slide(path) as slide:
        assert [level.width for level in slide.levels] == [256, 128, 64]


def test_facts_of_an_svs(svs):
    with Slide(svs) as slide:
        assert (slide.width, slide.height) == (700, 500)
        assert slide.mpp == (0.5, 0.5)
        assert slide.mpp_source == "Aperio description (MPP)"
        assert slide.magnification == 20
        assert slide.properties["aperio.ScanScope ID"] == "SYNTHETIC"
        assert slide.kind == "svs"
        assert repr(slide).endswith("svs, levels 700x500, 350x250, 175x125, 0.5 um/px (Aperio description (MPP)))")
    assert repr(slide).endswith("closed)")


def test_philips_padding_is_clipped_and_the_scale_is_the_stated_one(tmp_path):
    pixels = picture(384, 256)
    path = write_pixels(tmp_path / "a.tif", pixels, vendor="philips", tile=128, levels=4, mpp=0.243)
    with tifffile.TiffFile(path) as tiff:
        assert tiff.pages[2].tags["ImageWidth"].value == 128, "padded on disk"
    with Slide(path) as slide:
        assert [level.size for level in slide.levels] == [(384, 256), (192, 128), (96, 64), (48, 32)]
        assert [level.downsample for level in slide.levels] == pytest.approx([1, 2, 4, 8])
        assert slide.mpp == pytest.approx((0.243, 0.243))
        assert slide.mpp_source == "Philips XML (DICOM_PIXEL_SPACING)"
        assert slide.reader == "libjpeg-turbo"
        small = slide.numpy(level=2)
        assert small.shape == (64, 96, 3)
        assert np.abs(small.astype(int) - pixels.reshape(64, 4, 96, 4, 3).mean((1, 3))).mean() < 6


def test_image_is_lazy_rgb(svs):
    with Slide(svs) as slide:
        image = slide.image(level=0)
    assert isinstance(image, pyvips.Image)
    assert (image.bands, image.format, image.interpretation) == (3, "uchar", "srgb")
    assert image.numpy().shape == (500, 700, 3), "an image outlives its slide"


def test_no_resolution_means_level_zero_and_two_are_refused(svs):
    with Slide(svs) as slide:
        assert slide.image().width == 700
        with pytest.raises(TypeError, match="one resolution, not 2: level, mpp"):
            slide.image(level=0, mpp=1.0)


@pytest.mark.parametrize(
    ("resolution", "size"),
    [
        ({"mpp": 1.0}, (350, 250)),
        ({"mpp": 1.37}, (255, 182)),
        ({"magnification": 5}, (175, 125)),
        ({"magnification": 7}, (245, 175)),
        ({"downsample": 3}, (233, 167)),
        ({"downsample": (2, 4)}, (350, 125)),
        ({"max_side": 101}, (101, 72)),
        ({"max_side": 5000}, (700, 500)),
    ],
)
def test_asked_resolutions_have_the_asked_size(svs, resolution, size):
    with Slide(svs) as slide:
        image = slide.image(**resolution)
        assert (image.width, image.height) == size
        assert slide.numpy(**resolution).shape == (size[1], size[0], 3)


@pytest.mark.parametrize("factor", [1.3, 2.0, 3.7, 6.4, 9.1, 17.0])
def test_resampling_keeps_places_to_an_eighth_of_a_pixel(tmp_path, factor):
    """The centroid of a soft blob, measured in the output, lies where the true factor puts it."""
    y, x = np.mgrid[0:1200, 0:1500]
    center_x, center_y, spread = 901.0, 333.0, 60.0
    blob = 255 * (1 - np.exp(-((x - center_x) ** 2 + (y - center_y) ** 2) / (2 * spread**2)))
    path = write_pixels(
        tmp_path / "a.tif", np.repeat(blob[..., None], 3, 2).astype(np.uint8), levels=1, compression="none"
    )
    with Slide(path) as slide:
        small = 255.0 - slide.numpy(downsample=factor)[..., 0]
    small[small < 3] = 0
    rows, columns = np.mgrid[0 : small.shape[0], 0 : small.shape[1]]
    found_x, found_y = (small * columns).sum() / small.sum(), (small * rows).sum() / small.sum()
    assert found_x == pytest.approx((center_x + 0.5) / factor - 0.5, abs=0.13)
    assert found_y == pytest.approx((center_y + 0.5) / factor - 0.5, abs=0.13)


def test_finer_than_level_zero_is_refused(svs):
    with Slide(svs) as slide, pytest.raises(ResolutionUnavailableError, match=r"'a.svs' cannot give mpp=0\.25"):
        slide.image(mpp=0.25)


def test_unknown_level_is_refused_by_name(svs):
    with Slide(svs) as slide:
        with pytest.raises(UnknownLevelError, match=r"slide 'a.svs' has levels 0\.\.2; level 5 does not exist"):
            slide.image(level=5)
        with pytest.raises(UnknownLevelError):
            slide.read_region(0, 0, 8, 8, level=3)


@pytest.mark.parametrize("compression", ["jpeg", "zstd"])
@pytest.mark.parametrize(("x", "y", "level"), [(0, 0, 0), (130, 61, 0), (130, 61, 1), (421, 399, 2)])
def test_read_region_takes_level_zero_places_and_level_sizes(tmp_path, compression, x, y, level):
    path = write_pixels(tmp_path / "a.tif", picture(), tile=64, levels=3, compression=compression)
    with Slide(path) as slide:
        left, top = x >> level, y >> level
        expected = tifffile_level(path, level)[top : top + 45, left : left + 70]
        region = slide.read_region(x, y, 70, 45, level)
        assert region.dtype == np.uint8
        np.testing.assert_array_equal(region[: expected.shape[0], : expected.shape[1]], expected)


def test_outside_the_slide_is_white(svs):
    with Slide(svs) as slide:
        region = slide.read_region(-20, -10, 60, 50)
        np.testing.assert_array_equal(region[10:, 20:], slide.numpy()[:40, :40])
        assert (region[:10] == 255).all()
        assert (region[:, :20] == 255).all()
        assert (slide.read_region(680, 0, 40, 10)[:, 20:] == 255).all()
        assert (slide.read_region(10_000, 10_000, 5, 5) == 255).all()
        with pytest.raises(ValueError, match="at least 1x1"):
            slide.read_region(0, 0, 0, 5)


def test_thumbnail_fits(svs):
    with Slide(svs) as slide:
        thumbnail = slide.thumbnail(64)
    assert (thumbnail.width, thumbnail.height) == (64, 46)


def test_pickled_slides_reopen_on_first_use(svs):
    with Slide(svs, mpp_override=0.5) as slide:
        slide.numpy(level=2)
        copy = pickle.loads(pickle.dumps(slide))
    assert copy._opened is None, "nothing is opened by unpickling"
    assert copy.mpp_source == "mpp_override"
    np.testing.assert_array_equal(copy.numpy(level=1), tifffile_level(svs, 1))
    copy.close()


def test_closed_slides_say_so(svs):
    slide = Slide(svs)
    slide.close()
    slide.close()
    with pytest.raises(ValueError, match=r"a\.svs' is closed"):
        slide.image()
    with pytest.raises(ValueError, match="is closed"):
        _ = pickle.loads(pickle.dumps(slide)).levels


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts handles in /proc")
@pytest.mark.parametrize("compression", ["jpeg", "zstd"])
def test_every_file_handle_is_released(tmp_path, compression):
    path = write_pixels(tmp_path / "a.tif", picture(), tile=64, levels=3, compression=compression)

    def handles():
        links = (os.path.join("/proc/self/fd", name) for name in os.listdir("/proc/self/fd"))
        return sum(os.path.realpath(link) == str(path.resolve()) for link in links)

    with Slide(path) as slide:
        slide.numpy(mpp=1.7)
        slide.read_region(0, 0, 50, 50)
        slide.thumbnail(50)
        assert handles() >= 1
    assert handles() == 0


def test_missing_files_and_folders_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"gone\.tif' does not exist"):
        Slide(tmp_path / "gone.tif")
    with pytest.raises(FileNotFoundError, match="is no file"):
        Slide(tmp_path)


def test_what_is_no_image_is_refused_by_name(tmp_path):
    (tmp_path / "table.tif").write_text("image,class\n")
    with pytest.raises(UnreadableImageError, match=r"table\.tif' is no image"):
        Slide(tmp_path / "table.tif")
    (tmp_path / "empty.svs").write_bytes(b"")
    with pytest.raises(UnreadableImageError, match=r"empty\.svs' is empty"):
        Slide(tmp_path / "empty.svs")


def test_override_wins_and_warns_on_contradiction(svs):
    with pytest.warns(SpacingConflictWarning, match=r"'a\.svs': mpp_override says 0\.25 um/px, Aperio description"):
        slide = Slide(svs, mpp_override=0.25)
    assert slide.mpp == (0.25, 0.25)
    assert slide.mpp_source == "mpp_override"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Slide(svs, mpp_override=(0.5, 0.51)).mpp == (0.5, 0.51)


def test_magnification_is_derived_from_the_spacing_only_when_asked(tmp_path):
    path = write_pixels(tmp_path / "a.tif", picture(), tile=64, levels=2, mpp=0.5)
    with Slide(path) as slide:
        assert slide.magnification is None
        with pytest.raises(SpacingUnknownError, match="does not say its objective power"):
            slide.image(magnification=10)
    with Slide(path, derive_magnification=True) as slide:
        assert slide.magnification == pytest.approx(20)
        assert slide.image(magnification=10).width == 350
    unknown = write_pixels(tmp_path / "b.tif", picture(), tile=64, levels=1, mpp=None)
    assert Slide(unknown, derive_magnification=True).magnification is None


def test_a_stated_magnification_is_not_derived_anew(svs):
    with Slide(svs, mpp_override=0.49, derive_magnification=True) as slide:
        assert slide.magnification == 20


def test_a_color_profile_in_a_slide_is_exposed_and_applied_on_request(tmp_path):
    profile = bytes(pyvips.Image.profile_load("p3"))
    tifffile.imwrite(tmp_path / "a.tif", picture(), photometric="rgb", tile=(64, 64), iccprofile=profile)
    with Slide(tmp_path / "a.tif") as slide:
        assert slide.icc_profile == profile
        np.testing.assert_array_equal(slide.numpy(), picture())
    with Slide(tmp_path / "a.tif", apply_icc=True) as slide:
        changed = slide.numpy()
        assert np.abs(changed.astype(int) - picture()).max() > 5
        np.testing.assert_array_equal(slide.read_region(50, 60, 70, 80), changed[60:140, 50:120])
        np.testing.assert_array_equal(
            slide.read_region(50, 60, 30, 20, downsample=3), slide.numpy(downsample=3)[20:40, 16:46]
        )
        assert slide.thumbnail(50).bands == 3


def test_a_damaged_profile_is_refused_when_it_is_to_be_applied(tmp_path):
    profile = bytes(pyvips.Image.profile_load("p3"))[:200]
    tifffile.imwrite(tmp_path / "a.tif", picture(), photometric="rgb", tile=(64, 64), iccprofile=profile)
    with Slide(tmp_path / "a.tif") as slide:
        np.testing.assert_array_equal(slide.numpy(), picture())
    with Slide(tmp_path / "a.tif", apply_icc=True) as slide:
        with pytest.raises(
            UnsupportedImageError, match=r"'a.tif' has a color profile .* cut off after 200 bytes.*apply_icc"
        ):
            slide.numpy()
        with pytest.raises(UnsupportedImageError, match="color profile"):
            slide.read_region(3, 4, 10, 10)


def test_a_profile_of_ink_is_not_applied_to_rgb(tmp_path):
    profile = bytes(pyvips.Image.profile_load("cmyk"))
    tifffile.imwrite(tmp_path / "a.tif", picture(), photometric="rgb", tile=(64, 64), iccprofile=profile)
    with Slide(tmp_path / "a.tif", apply_icc=True) as slide:
        np.testing.assert_array_equal(slide.numpy(), picture())
    with pytest.raises(ValueError, match="apply_icc=True is for RGB"):
        Slide(tmp_path / "a.tif", apply_icc=True, channels=[0])


@pytest.mark.parametrize("value", [0, -1, float("nan"), (0.5, 0.0)])
def test_senseless_overrides_are_refused(svs, value):
    with pytest.raises(ValueError, match="mpp_override="):
        Slide(svs, mpp_override=value)


def test_real_svs():
    with Slide(real("CMU-1-Small-Region.svs")) as slide:
        assert [level.size for level in slide.levels] == [(2220, 2967)]
        assert slide.mpp == (0.499, 0.499)
        assert slide.magnification == 20
        assert slide.reader == "libjpeg-turbo"
        np.testing.assert_array_equal(slide.numpy(), tifffile_level(slide.path, 0))


@pytest.mark.slow
def test_real_jpeg2000_svs_without_spacing():
    with Slide(real("tcga-cr-7395-01a-01-ts1.svs")) as slide:
        assert [level.size for level in slide.levels] == [(4443, 3567), (2221, 1783)]
        assert slide.reader == "tifffile"
        with pytest.raises(SpacingUnknownError, match=r"ts1\.svs.*checked: Aperio description.*mpp_override="):
            slide.image(mpp=1.0)
        np.testing.assert_array_equal(slide.numpy(level=1), tifffile_level(slide.path, 1))
    with Slide(slide.path, mpp_override=0.25) as slide:
        assert slide.image(mpp=1.0).width == round(4443 / 4)


def test_real_ome_tiff_whose_jpeg_colors_are_mislabeled():
    with Slide(real("OS-2-ndpi.ome.tif")) as slide:
        assert slide.reader == "libjpeg-turbo"
        assert slide.mpp == pytest.approx((0.2271, 0.2271), abs=1e-4)
        np.testing.assert_array_equal(slide.numpy(), tifffile_level(slide.path, 0))


def test_real_zstd_pyramid_is_not_black():
    with Slide(real("yb10kx5k.zstd.tiff")) as slide:
        assert slide.level_count == 5
        assert slide.mpp is None, "72 dpi is no spacing"
        assert slide.reader == "tifffile"
        pixels = slide.numpy(level=3)
        np.testing.assert_array_equal(pixels, tifffile_level(slide.path, 3))
        assert pixels.max() > 100


def test_real_ndpi():
    with Slide(real("test3-DAPI.ndpi")) as slide:
        assert [level.size for level in slide.levels][:2] == [(3968, 4864), (1984, 2432)]
        assert slide.mpp == pytest.approx((0.2282, 0.2282), abs=1e-4)
        np.testing.assert_array_equal(slide.numpy(level=2), tifffile_level(slide.path, 2))


def test_real_sixteen_bit_channels_are_refused_with_the_remedy():
    with pytest.raises(
        UnsupportedImageError, match=r"2048x2048_ome6_tiled\.ome\.tif' holds a stack of 3 planes of uint16"
    ):
        Slide(real("2048x2048_ome6_tiled.ome.tif"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "associated"),
    [
        ("CMU-1-Small-Region.svs", ["thumbnail", "label", "macro"]),
        ("tcga-cr-7395-01a-01-ts1.svs", ["thumbnail"]),
        ("OS-2-ndpi.ome.tif", []),
        ("yb10kx5k.zstd.tiff", []),
        ("test3-DAPI.ndpi", ["macro", "map"]),
    ],
)
def test_every_level_and_label_of_the_real_slides_equals_tifffiles(name, associated):
    with Slide(real(name)) as slide, tifffile.TiffFile(slide.path) as tiff:
        for level in slide.levels[1 if name.startswith("yb10") else 0 :]:
            np.testing.assert_array_equal(slide.numpy(level=level.index), tifffile_level(slide.path, level.index))
        assert list(slide.associated_images) == associated
        for found, series in zip(associated, tiff.series[1:], strict=False):
            expected = series.asarray()
            expected = np.repeat(expected[..., None], 3, 2) if expected.ndim == 2 else expected
            np.testing.assert_array_equal(slide.associated_images[found].numpy(), expected)
        assert slide.levels[-1].downsample_x == slide.width / slide.levels[-1].width


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts handles in /proc")
@pytest.mark.parametrize("options", [{}, {"channels": [0]}])
def test_a_slide_that_is_dropped_unclosed_lets_its_file_go(tmp_path, options):
    path = write_slide(tmp_path / "a.tif", width=300, height=200, tile=64)
    gc.disable()  # nobody knows when the collector of circles comes
    try:
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(5):
            slide = Slide(path, **options)
            slide.read_region(0, 0, 9, 9)
            del slide
        assert len(os.listdir("/proc/self/fd")) == before
    finally:
        gc.enable()
