"""Synthetic slides have the right tags, and two classes that differ in structure."""

import csv

import numpy as np
import pytest
import shapely
import tifffile
from PIL import Image

from wsidata.annotations import Annotations
from wsidata.slides.slide import Slide
from wsidata.synthetic import outlines
from wsidata.synthetic.slides import write_camelyon16, write_pixels, write_slide

SMALL = {"width": 512, "height": 480, "tile": 64, "levels": 3}


@pytest.mark.parametrize("vendor", ["generic", "aperio", "philips"])
def test_slides_open_with_the_spacing_they_were_written_with(tmp_path, vendor):
    path = write_slide(tmp_path / "deep" / "a.tif", vendor=vendor, mpp=0.25, **SMALL)
    with Slide(path) as slide:
        assert slide.level_count == 3
        assert slide.mpp == pytest.approx((0.25, 0.25), rel=1e-6)
        assert slide.kind == {"generic": "generic", "aperio": "svs", "philips": "philips"}[vendor]
        assert slide.reader == "libjpeg-turbo"
        assert slide.magnification == (40 if vendor == "aperio" else None)


def test_tiles_are_jpeg_in_each_makers_colors(tmp_path):
    for vendor, color in (("generic", "YCBCR"), ("aperio", "RGB"), ("philips", "YCBCR")):
        with tifffile.TiffFile(write_slide(tmp_path / f"{vendor}.tif", vendor=vendor, **SMALL)) as tiff:
            page = tiff.pages[0]
            assert (page.compression.name, page.photometric.name, page.is_tiled) == ("JPEG", color, True)


def test_aperio_pages_come_in_aperio_order(tmp_path):
    with tifffile.TiffFile(write_slide(tmp_path / "a.svs", vendor="aperio", **SMALL)) as tiff:
        assert [page.is_tiled for page in tiff.pages] == [True, False, True, True, False, False]
        assert [int(page.subfiletype) for page in tiff.pages][-2:] == [1, 9]
        assert [series.name for series in tiff.series] == ["Baseline", "Thumbnail", "Label", "Macro"]


def test_jpeg2000_is_stored_under_aperios_code(tmp_path):
    path = write_slide(tmp_path / "a.svs", vendor="aperio", compression="jpeg2000", **SMALL)
    with tifffile.TiffFile(path) as tiff:
        assert tiff.pages[0].compression == 33005


def test_spacing_can_be_left_out(tmp_path):
    for vendor in ("generic", "aperio"):
        assert Slide(write_slide(tmp_path / f"{vendor}.tif", vendor=vendor, mpp=None, **SMALL)).mpp is None


def test_the_same_seed_gives_the_same_file(tmp_path):
    first, second, third = (
        write_slide(tmp_path / f"{name}.tif", seed=seed, tumor=True, **SMALL).read_bytes()
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    assert first == second
    assert first != third


@pytest.mark.slow
def test_slides_have_glass_and_tissue(tmp_path):
    for seed in range(4):
        path = write_slide(tmp_path / "a.tif", width=640, height=640, mpp=1.6, seed=seed, tumor=bool(seed % 2))
        with Slide(path) as slide:
            pixels = slide.numpy().astype(int)
        glass = (pixels.min(axis=2) > 225).mean()
        pink = ((pixels[..., 0] - pixels[..., 1]) > 20).mean()
        assert 0.2 < glass < 0.9
        assert pink > 0.1
        assert (pixels[:8, :8] > 225).all(), "corners are glass"


@pytest.mark.slow
def test_tumor_shows_in_crowded_dark_nuclei_not_in_mean_color(tmp_path):
    """Dense nuclei identify every tumor slide; the mean color, which varies with stain strength, does not."""

    def features(seed, tumor):
        path = write_slide(tmp_path / "a.tif", width=640, height=640, mpp=1.6, levels=1, seed=seed, tumor=tumor)
        with Slide(path) as slide:
            red = slide.numpy()[..., 0].astype(float)
        blocks = (red < 150).reshape(40, 16, 40, 16).mean((1, 3))
        return np.sort(blocks, axis=None)[-40:].mean(), red.mean()

    normal = np.array([features(seed, False) for seed in range(6)])
    tumor = np.array([features(100 + seed, True) for seed in range(6)])
    assert normal[:, 0].max() < tumor[:, 0].min()
    assert normal[:, 1].min() < tumor[:, 1].max(), "mean colors overlap"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tile": 100}, "multiple of 16"),
        ({"vendor": "aperio", "subifds": True}, "goes with vendor='generic'"),
        ({"vendor": "philips", "mpp": None}, "needs mpp"),
        ({"vendor": "zeiss"}, "vendor='zeiss' is not one of generic, aperio, philips"),
        ({"levels": 12}, "levels=12 is too many"),
    ],
)
def test_impossible_files_raise(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        write_pixels(tmp_path / "a.tif", np.zeros((64, 64, 3), np.uint8), **options)


def test_camelyon16_layout(tmp_path):
    folder = write_camelyon16(tmp_path / "c16", normal=3, tumor=2, test=2, size_px=(300, 260), tile=64, seed=5)
    with (folder / "evaluation" / "reference.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["image", "type", "class", "center"]
    assert [(row["image"], row["type"], row["class"]) for row in rows] == [
        ("normal_001.tif", "normal", "negative"), ("normal_002.tif", "normal", "negative"),
        ("normal_003.tif", "normal", "negative"), ("tumor_001.tif", "tumor", "micro"),
        ("tumor_002.tif", "tumor", "macro"), ("test_001.tif", "normal", "negative"), ("test_002.tif", "tumor", "micro"),
    ]  # fmt: skip
    assert sorted(path.name for path in (folder / "images").iterdir()) == sorted(row["image"] for row in rows)
    kinds = set()
    for row in rows:
        with Slide(folder / "images" / row["image"]) as slide:
            kinds.add((row["center"], slide.kind, slide.mpp and round(slide.mpp[0], 3)))
    assert kinds == {("0", "philips", 0.5), ("1", "generic", 0.46)}, "two centers, two spacings"


def test_masks_show_where_the_tumor_is(tmp_path):
    folder = write_camelyon16(tmp_path / "c16", normal=1, tumor=1, test=2, size_px=(400, 400), seed=2, masks=True)
    assert sorted(path.name for path in (folder / "masks").iterdir()) == ["test_002.png", "tumor_001.png"]
    with Image.open(folder / "masks" / "tumor_001.png") as file:
        mask = np.asarray(file) > 0
    with Slide(folder / "images" / "tumor_001.tif") as slide:
        pixels = slide.image(level=0).numpy()
    assert pixels.shape[:2] == mask.shape
    tissue = pixels.min(axis=2) < 200
    assert pixels[mask].mean() < pixels[tissue & ~mask].mean()  # crowded nuclei are dark


@pytest.mark.slow
def test_outlines_are_those_of_the_painted_tumor_to_the_pixel(tmp_path):
    sizes = {"normal": 0, "tumor": 1, "test": 2, "size_px": (300, 240), "tile": 64}
    folder = write_camelyon16(tmp_path / "c16", **sizes, seed=4, masks=True, annotations=True)
    found = {path.stem: Annotations.read(path) for path in (folder / "annotations").iterdir()}
    assert set(found) == {"tumor_001", "test_002"}, "none without tumor, as in the original"
    assert {one.class_names for one in found.values()} == {("_0", "_2"), ("Tumor", "Exclusion")}
    assert all(any(outline.removes == "all" for outline in one.outlines) for one in found.values())
    for name, annotations in found.items():
        with Image.open(folder / "masks" / f"{name}.png") as file:
            painted = np.asarray(file) > 0
        area = annotations.area(annotations.class_names[0])
        assert area.area == painted.sum()
        row, column = np.nonzero(painted)
        assert shapely.contains_xy(area, column + 0.5, row + 0.5).all(), "so the area is that of these pixels"


def test_islands_in_holes_stay_in_the_outlines(tmp_path, monkeypatch):
    """ASAP cuts areas out of all outlines, so that tumor around a hole with tumor in it is stored in two parts."""
    painted = np.zeros((40, 50), bool)
    painted[5:35, 5:45], painted[8:32, 8:42], painted[15:20, 20:30], painted[30, 41] = True, False, True, True
    painted[25, 10:14], painted[2:4, 2:4], painted[17, 25] = True, True, False
    monkeypatch.setattr(outlines, "tumor_mask", lambda *size, seed: painted)
    outlines.tumor_outlines(50, 40, seed=0).write(tmp_path / "a.xml")
    area = Annotations.read(tmp_path / "a.xml").area("Tumor")
    row, column = np.indices(painted.shape) + 0.5
    np.testing.assert_array_equal(shapely.contains_xy(area, column, row), painted)
    assert area.area == painted.sum()
