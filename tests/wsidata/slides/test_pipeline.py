"""A rectangle read without the pipeline has the pixels of the same rectangle of the pipeline."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import pyvips
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import ImageCms

from wsidata import Slide
from wsidata.formats.tiff.jpeg_tiles import JpegTiles
from wsidata.slides.pipeline import SlidePipeline, transformed
from wsidata.slides.tissue.packing import PIECES_AT_ONCE, Packing, Piece
from wsidata.synthetic.slides import write_pixels, write_slide
from wsidata.transforms.adapters.functions import FunctionTransform
from wsidata.transforms.base import Operation
from wsidata.transforms.color.stain import DensityMap
from wsidata.transforms.color.stain_normalize import ReinhardMap
from wsidata.transforms.color.tone import GaussianBlur, ToneCurve
from wsidata.transforms.compose import Compose, he_train_transform
from wsidata.transforms.geometry.affine import AffineMap, RandomAffine, RandomD4, Symmetry
from wsidata.transforms.geometry.crop import CropOrPad, CropWindow
from wsidata.transforms.geometry.dropout import Holes
from wsidata.transforms.geometry.elastic import Elastic
from wsidata.utils.rectangle import Rectangle

WIDTH, HEIGHT, TILE = 500, 380, 64
MIX = ((0.9, 0.1, 0.0), (0.05, 1.1, -0.1), (0.0, 0.2, 0.8))


@pytest.fixture(scope="module")
def slide(tmp_path_factory):
    path = tmp_path_factory.mktemp("regions") / "tumor_001.tif"
    with Slide(write_slide(path, width=WIDTH, height=HEIGHT, tile=TILE, tumor=True)) as slide:
        yield slide


def numbers(low, high):
    return st.integers(low, high)


crops = st.builds(
    CropWindow, numbers(-300, 500), numbers(-300, 400), numbers(1, 700), numbers(1, 600), st.sampled_from([None, 0.0]),
    st.just(0.0),
)  # fmt: skip
operations = st.one_of(
    crops,
    st.builds(Symmetry, numbers(0, 3), st.booleans()),
    st.builds(GaussianBlur, st.sampled_from([0.0, 0.6, 2.3, 16.0])),
    st.just(ToneCurve((0.1, 0.0, -0.1), (1.1, 0.9, 1.0), (1.0, 1.2, 0.8))),
    st.just(DensityMap(MIX, (0.02, -0.01, 0.0))),
    st.just(ReinhardMap(MIX, (0.02, -0.01, 0.0))),
    st.just(Holes(((3, 5, 40, 30), (200, 90, 9, 100)), None, None)),
)


def picture_of(seed, width, height):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return pixels, pyvips.Image.new_from_array(pixels).copy(interpretation="srgb")


@pytest.mark.slow
@settings(max_examples=120, deadline=None)
@given(st.lists(operations, max_size=4), numbers(1, 300), numbers(1, 300), st.data())
def test_what_is_done_to_a_part_is_what_is_done_to_the_whole(chain, width, height, data):
    pixels, picture = picture_of(0, width, height)
    whole = picture
    for operation in chain:
        if isinstance(operation, Holes):  # they lie inside the picture they were drawn for
            assume(whole.width >= 240 and whole.height >= 190)
        if isinstance(operation, CropWindow):  # no picture that is nothing but padding
            assume(
                operation.source_window(Rectangle(0, 0, operation.width, operation.height), 0, 0).inside(
                    whole.width, whole.height
                )
            )
        whole = operation.image(whole)
    x, y = data.draw(numbers(0, whole.width - 1)), data.draw(numbers(0, whole.height - 1))
    region = Rectangle(x, y, data.draw(numbers(1, whole.width - x)), data.draw(numbers(1, whole.height - y)))
    asked = []

    def read(part):
        asked.append(part)
        assert part.inside(width, height) == part
        return pixels[part.y : part.y + part.height, part.x : part.x + part.width].copy()

    part = transformed(read, chain, picture, "a.tif")(region)
    np.testing.assert_array_equal(part, whole.numpy()[y : y + region.height, x : x + region.width])
    assert len(asked) <= 1


def test_every_operation_says_what_it_needs_or_that_it_does_not_know():
    known = {name for name, kind in Operation.known.items() if kind.source_window is not Operation.source_window}
    assert known == {"Window", "Symmetry", "ToneCurve", "GaussianBlur", "DensityMap", "ReinhardMap", "Holes"}
    _, picture = picture_of(0, 20, 30)
    turn, shear = Symmetry(1, True), AffineMap(((1.0, 0.1), (0.0, 1.0)), (0.0, 0.0), None, 0)
    assert transformed(lambda region: None, [turn, shear], picture, "a.tif") is None


@pytest.mark.parametrize(
    "resolution", [{"level": 0}, {"level": 1}, {"mpp": 0.83}, {"downsample": 1.3}, {"downsample": 7.1}]
)
@pytest.mark.parametrize("crop", [None, "tissue", "pack"])
@pytest.mark.parametrize("transform", [None, Compose([he_train_transform((150, 170))])])
def test_slides_are_read_without_their_pipeline(slide, resolution, crop, transform, monkeypatch):
    expected = slide.lazy(crop=crop, transform=transform, seed=3, **resolution)
    monkeypatch.setattr("wsidata.slides.slide.Slide.regions", lambda *_, **__: None)
    by_pipeline = slide.lazy(crop=crop, transform=transform, seed=3, **resolution)
    monkeypatch.undo()
    assert expected._readable().read is not None
    assert by_pipeline._readable().read is None
    _, height, width = expected.shape
    for region in (
        Rectangle(0, 0, width, height),
        Rectangle(width // 3, height // 2, width // 4, 7),
        Rectangle(1, 0, 1, 1),
    ):
        there = by_pipeline._readable().image.crop(region.x, region.y, region.width, region.height).numpy()
        np.testing.assert_array_equal(expected._readable().read(region), there)


@pytest.mark.parametrize("transform", [Elastic(), RandomAffine(degrees=5), FunctionTransform(lambda image: image)])
def test_what_does_not_say_what_it_needs_goes_through_the_pipeline(slide, transform):
    image = slide.lazy(level=0, transform=Compose([RandomD4(), transform, CropOrPad(200)]))
    assert image._readable().read is None
    assert image.rows(0, 200).shape == (3, 200, 200)


def test_many_pieces_are_placed_as_in_the_pipeline(slide):
    pieces = tuple(
        Piece(x * 40, y * 60, 30, 50, canvas_x=x * 37 + 3, canvas_y=y * 55 + x) for x in range(10) for y in range(5)
    )
    assert len(pieces) > PIECES_AT_ONCE
    packing = Packing(pieces, 380, 310, WIDTH, HEIGHT)
    picture = SlidePipeline(slide, {"level": 0}, packing)()
    assert picture.read is not None
    expected = picture.image.numpy()
    for region in (
        Rectangle(0, 0, 380, 310),
        Rectangle(100, 40, 33, 90),
        Rectangle(0, 300, 3, 10),
        Rectangle(3, 0, 30, 50),
    ):
        there = expected[region.y : region.y + region.height, region.x : region.x + region.width]
        np.testing.assert_array_equal(picture.read(region), there)


def test_color_profile_and_channels(tmp_path):
    pixels = np.random.default_rng(4).integers(0, 256, (150, 200, 3), dtype=np.uint8)
    profile = bytes(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    path = write_pixels(tmp_path / "a.tif", pixels, tile=64, compression="deflate")
    import tifffile

    with tifffile.TiffWriter(tmp_path / "icc.tif") as tiff:
        tiff.write(pixels, tile=(64, 64), photometric="rgb", iccprofile=profile)
    with Slide(tmp_path / "icc.tif", apply_icc=True) as slide:
        expected = slide.image(level=0).numpy()
        np.testing.assert_array_equal(slide.regions(level=0)(Rectangle(10, 20, 150, 99)), expected[20:119, 10:160])
    with Slide(path, channels=[2, 0]) as slide:
        np.testing.assert_array_equal(slide.regions(level=0)(Rectangle(10, 20, 99, 88)), pixels[20:108, 10:109, [2, 0]])


# -- cost --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def decoded(monkeypatch):
    """The numbers of the tiles that were decoded, in order."""
    indices, decode = [], JpegTiles.decode

    def counted(tiles, index):
        indices.append(index)
        return decode(tiles, index)

    monkeypatch.setattr(JpegTiles, "decode", counted)
    return indices


TILES = 8 * 6


@pytest.mark.parametrize("order", [list, reversed])
@pytest.mark.parametrize("step", [1, 37, 200])
@pytest.mark.parametrize("axis", ["rows", "columns"])
@pytest.mark.parametrize("transform", [None, RandomD4()])
@pytest.mark.parametrize("resolution", [{"level": 0}, {"downsample": 1.3}])
def test_a_pass_decodes_every_tile_once(slide, resolution, transform, axis, step, order, decoded, monkeypatch):
    monkeypatch.setattr("wsidata.slides.lazy_image.BLOCK_PX", 16)
    monkeypatch.setattr("wsidata.slides.lazy_image.KEPT_BLOCK_BYTES", 0)
    monkeypatch.setattr("wsidata.formats.tiff.tiles.KEPT_TILE_BYTES", 0)
    monkeypatch.setattr("wsidata.slides.pipeline.RIM_PX", 2)
    image = slide.lazy(transform=transform, **resolution)
    length = image.shape[1] if axis == "rows" else image.shape[2]
    decoded.clear()
    for start in order(range(0, length, step)):
        getattr(image, axis)(start, min(start + step, length))
    assert len(decoded) == len(set(decoded)) == TILES


def test_only_the_tiles_under_a_rectangle_are_decoded(slide, decoded):
    read = slide.regions(level=0)
    decoded.clear()
    read(Rectangle(65, 1, 60, 127))
    assert sorted(decoded) == [1, 9]
    read(Rectangle(65, 1, 60, 127))  # both are cut, and kept
    assert sorted(decoded) == [1, 9]
    read(Rectangle(64, 64, 64, 64))  # whole: not looked for among those that are kept
    assert sorted(decoded) == [1, 9, 9]


def test_threads_may_read_at_a_time(slide):
    read, expected = slide.regions(mpp=0.83), slide.numpy(mpp=0.83)
    height, width = expected.shape[:2]
    regions = [
        Rectangle(x, y, min(50, width - x), min(40, height - y)) for x in range(0, width, 31) for y in (0, 17, 90)
    ]
    with ThreadPoolExecutor(4) as threads:
        for region, part in zip(regions, threads.map(read, regions), strict=True):
            there = expected[region.y : region.y + region.height, region.x : region.x + region.width]
            np.testing.assert_array_equal(part, there)


def test_formats_that_are_not_decoded_by_tiles_have_none(tmp_path):
    picture_of(1, 60, 50)[1].jpegsave(str(tmp_path / "a.jpg"))
    with Slide(tmp_path / "a.jpg") as slide:
        assert slide.regions(level=0) is None
        assert slide.lazy(level=0).rows(3, 9).shape == (3, 6, 60)
