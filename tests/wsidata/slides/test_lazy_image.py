import gc
import os
import pickle
import random
import resource
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import pyvips
import torch
from lightning.fabric.utilities import move_data_to_device
from places import SLIDES

from wsidata import LazyImage, Slide, TissueCrop
from wsidata.errors import NoTissueError, UnreadableImageError
from wsidata.formats.vips import TileSource, cached_tiles
from wsidata.slides.lazy_image import as_tensor
from wsidata.synthetic.slides import write_pixels, write_slide
from wsidata.transforms.base import TransformError
from wsidata.transforms.color.stain_normalize import MacenkoNormalize
from wsidata.transforms.compose import Compose
from wsidata.transforms.geometry.affine import RandomD4
from wsidata.transforms.geometry.crop import CropOrPad
from wsidata.utils import same_file

STRIP_PX = 37


@pytest.fixture(scope="module")
def slide(tmp_path_factory):
    path = tmp_path_factory.mktemp("lazy") / "tumor_001.tif"
    with Slide(write_slide(path, width=1500, height=1100, tile=64, tumor=True)) as slide:
        yield slide


def strips(length, step=STRIP_PX):
    return [(start, min(start + step, length)) for start in range(0, length, step)]


def whole(image, order=list, axis="rows"):
    """The image put together from strips that are read in some order."""
    length = image.shape[1] if axis == "rows" else image.shape[2]
    out = torch.full(image.shape, 7, dtype=image.dtype)
    for start, stop in order(strips(length)):
        part = image.rows(start, stop) if axis == "rows" else image.columns(start, stop)
        if axis == "rows":
            out[:, start:stop] = part
        else:
            out[:, :, start:stop] = part
    return out.permute(1, 2, 0).numpy()


def shuffled(items):
    return random.Random(0).sample(items, len(items))


@pytest.mark.parametrize("resolution", [{"level": 0}, {"mpp": 0.83}, {"level": 1}])
@pytest.mark.parametrize("order", [list, reversed, shuffled])
def test_rows_in_any_order_are_the_whole_image(slide, resolution, order):
    image = slide.lazy(**resolution)
    expected = slide.image(**resolution).numpy()
    assert image.shape == (3, *expected.shape[:2])
    assert image.dtype == torch.uint8
    assert image.name == "tumor_001.tif"
    np.testing.assert_array_equal(whole(image, order), expected)


@pytest.mark.slow
@pytest.mark.parametrize("crop", [None, "tissue", "pack"])
def test_cropped_augmented_padded_rows_are_those_of_the_same_pipeline_at_once(slide, crop):
    transform = Compose([RandomD4(), CropOrPad((1300, 900))])
    for seed in range(3):
        image = slide.lazy(downsample=1.3, crop=crop, transform=transform, seed=seed)
        picture = slide.image(downsample=1.3)
        if crop is not None:
            picture = TissueCrop(crop).plan(slide, {"downsample": 1.3}).apply(picture)
        expected = transform(picture, np.random.default_rng(seed)).numpy()
        assert image.shape == (3, 1300, 900)
        np.testing.assert_array_equal(whole(image, reversed), expected)
        np.testing.assert_array_equal(whole(image, shuffled, "columns"), expected)


def test_strips_are_memory_of_their_own(slide):
    image = slide.lazy(level=1)
    image.rows(0, 9).zero_()
    assert image.rows(0, 9).any()
    assert image.rows(0, 9).stride() == (1, 3 * image.shape[2], 3)


def test_threads_read_the_same_rows(slide):
    image = slide.lazy(mpp=0.83)
    expected = torch.from_numpy(slide.image(mpp=0.83).numpy()).permute(2, 0, 1)
    with ThreadPoolExecutor(4) as threads:
        parts = list(threads.map(lambda strip: (strip, image.rows(*strip)), shuffled(strips(image.shape[1]) * 3)))
    for (start, stop), part in parts:
        assert torch.equal(part, expected[:, start:stop])


def test_rows_survive_the_slide_and_pickling(slide):
    with Slide(slide.path) as opened:
        image = opened.lazy(level=0, crop="pack", transform=RandomD4(), seed=5)
    expected = image.rows(100, 180)
    copy = pickle.loads(pickle.dumps(image))
    assert (copy.shape, copy.dtype, copy.name) == (image.shape, image.dtype, image.name)
    assert torch.equal(copy.rows(100, 180), expected)
    assert len(pickle.dumps(image)) < 5000


def test_image_that_cannot_be_built_again_cannot_be_pickled():
    image = LazyImage(pyvips.Image.black(5, 5))
    with pytest.raises(TypeError, match=r"cannot be pickled. Make it with Slide.lazy"):
        pickle.dumps(image)


def test_float_pixels_and_one_band():
    picture = pyvips.Image.new_from_array(np.arange(30, dtype=np.uint8).reshape(5, 6))
    assert LazyImage(picture).shape == (1, 5, 6)
    floats = LazyImage(picture, dtype="float").rows(1, 3)
    torch.testing.assert_close(floats, torch.arange(6, 18).reshape(1, 2, 6) / 255)
    assert LazyImage(picture.cast("double") / 255).dtype == torch.float32
    torch.testing.assert_close(LazyImage((picture / 255).cast("float")).rows(1, 3), floats)


@pytest.mark.parametrize(("start", "stop"), [(-1, 3), (3, 3), (4, 2), (0, 6)])
def test_rows_that_do_not_exist_are_refused(start, stop):
    with pytest.raises(IndexError, match="of 'glass' do not exist: it has 5 rows"):
        LazyImage(pyvips.Image.black(6, 5), name="glass").rows(start, stop)


def test_pipeline_that_ends_in_no_picture_is_refused(slide):
    with pytest.raises(TransformError, match=r"'tumor_001.tif' ends in a ndarray.*ToTensor"):
        slide.lazy(level=1, transform=lambda image: image.numpy())
    with pytest.raises(TransformError, match="ends in 'ushort' pixels"):
        LazyImage(pyvips.Image.black(5, 5).cast("ushort"))


@pytest.mark.parametrize(
    "name", ["CMU-1-Small-Region.svs", "OS-2-ndpi.ome.tif", "test3-DAPI.ndpi", "yb10kx5k.zstd.tiff"]
)
def test_rows_of_real_slides_outlive_the_open_slide(name):
    if not (SLIDES / name).exists():
        pytest.skip("the folder of real slides is not here")
    with Slide(SLIDES / name) as slide:
        expected = slide.numpy(level=0)[700:1000]
        image = slide.lazy(level=0)
    np.testing.assert_array_equal(image.rows(700, 1000).permute(1, 2, 0).numpy(), expected)


def test_zarr_is_read_chunk_by_chunk(tmp_path):
    zarr = pytest.importorskip("zarr")
    pixels = np.random.default_rng(0).integers(0, 255, (3, 300, 500), dtype=np.uint8)
    group = zarr.open_group(tmp_path / "a.ome.zarr", mode="w", zarr_format=2)
    group.create_array("0", shape=pixels.shape, chunks=(3, 100, 90), dtype="u1")[:] = pixels
    axes = [{"name": name, "type": "channel" if name == "c" else "space"} for name in "cyx"]
    scale = {"path": "0", "coordinateTransformations": [{"type": "scale", "scale": [1, 0.5, 0.5]}]}
    group.attrs["multiscales"] = [{"version": "0.4", "axes": axes, "datasets": [scale]}]
    group.attrs["omero"] = {"channels": [{"color": color} for color in ("FF0000", "00FF00", "0000FF")]}
    with Slide(tmp_path / "a.ome.zarr") as slide:
        image = slide.lazy(level=0)
    np.testing.assert_array_equal(image.rows(10, 290).numpy(), pixels[:, 10:290])


def test_size_and_scale_at_a_resolution(slide):
    assert slide.size_at(downsample=1.3) == (slide.image(downsample=1.3).width, slide.image(downsample=1.3).height)
    assert slide.downsample_at(downsample=1.3) == pytest.approx((1.3, 1.3))
    assert slide.downsample_at(mpp=2.0) == pytest.approx((4, 4))
    assert slide.downsample_at(level=1) == (2, 2)
    with pytest.raises(TypeError, match="zoom is no resolution"):
        slide.size_at(zoom=3)


# -- cost --------------------------------------------------------------------------------------------------------------


def counted(height=2048, width=1536, tile=64, then=lambda image: image):
    """A lazy image of numbers, and the list of its tiles that were decoded."""
    decoded = []

    def decode(x, y, w, h):
        decoded.append((x, y))
        return np.full((h, w, 3), (x * 7 + y * 13) // tile % 251, np.uint8)

    return LazyImage(lambda: then(cached_tiles(TileSource((width, height), (tile, tile), decode).image()))), decoded


PIPELINES = {
    "level": lambda image: image,
    "turned": lambda image: image.rot90(),
    "resampled": lambda image: image.resize(0.71, kernel="lanczos3"),
    "resampled by almost four": lambda image: image.resize(0.26, kernel="lanczos3"),
    "cropped and padded": lambda image: image.gravity("centre", 1400, 2200, extend="background", background=255),
    "blurred": lambda image: image.gaussblur(2),
}


@pytest.mark.parametrize("step", [1, 50, 300])
@pytest.mark.parametrize("pipeline", PIPELINES)
@pytest.mark.parametrize("order", [list, reversed])
def test_a_pass_decodes_every_tile_once(pipeline, order, step, monkeypatch):
    monkeypatch.setattr("wsidata.slides.lazy_image.BLOCK_PX", 32)  # small against the image, as in life
    monkeypatch.setattr("wsidata.formats.vips.TILE_CACHE_PX", 8 * 32)
    monkeypatch.setattr("wsidata.formats.vips.TILE_CACHE_BYTES", 0)
    monkeypatch.setattr("wsidata.slides.lazy_image.KEPT_BLOCK_BYTES", 0)
    image, decoded = counted(512, 448, 64, PIPELINES[pipeline])
    for start, stop in order(strips(image.shape[1], step)):
        image.rows(start, stop)
    assert len(decoded) == len(set(decoded))
    assert len(decoded) >= 0.9 * 56


@pytest.mark.slow
def test_memory_does_not_grow_with_the_rows(monkeypatch):
    monkeypatch.setattr("wsidata.formats.vips.TILE_CACHE_BYTES", 2**25)
    monkeypatch.setattr("wsidata.slides.lazy_image.KEPT_BLOCK_BYTES", 2**25)

    def peak(height):
        image, decoded = counted(height, 16_384, 256)
        for start, stop in strips(height, 128):
            image.rows(start, stop)
        assert len(decoded) == 64 * height // 256
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    small = peak(2048)
    assert peak(16_384) - small < 100  # MB; these are 800 MB of rows


def test_picture_that_is_not_tiled_stays_as_it_is():
    plain = pyvips.Image.black(10, 10)
    assert cached_tiles(plain) is plain


# -- failure -----------------------------------------------------------------------------------------------------------


def test_undecodable_rows_name_the_slide_and_can_be_asked_for_again():
    is_broken = [True]

    def decode(x, y, w, h):
        if y >= 128 and is_broken:
            raise UnreadableImageError("tile 9 is no JPEG")
        return np.full((h, w, 3), 9, np.uint8)

    image = LazyImage(lambda: cached_tiles(TileSource((256, 512), (64, 64), decode).image()), name="normal_001.tif")
    for _ in range(2):
        with pytest.raises(UnreadableImageError, match=r"rows 256..383 of 'normal_001.tif'.*tile 9 is no JPEG$"):
            image.rows(300, 310)
    is_broken.clear()
    assert (image.rows(300, 310) == 9).all()


def test_damaged_tile_is_an_error_every_time(tmp_path):
    path = write_slide(tmp_path / "bad.tif", width=640, height=640, tile=64, levels=1)
    import tifffile

    with tifffile.TiffFile(path) as tiff:
        offset, count = tiff.pages[0].dataoffsets[50], tiff.pages[0].databytecounts[50]
    data = bytearray(path.read_bytes())
    data[offset + count // 2 : offset + count - 2] = bytes(count - 2 - count // 2)
    path.write_bytes(data)
    with Slide(path) as slide:
        image = slide.lazy(level=0)
    for _ in range(2):
        with pytest.raises(UnreadableImageError, match=r"of 'bad.tif' could not be decoded"):
            image.rows(0, 640)


def test_file_that_was_replaced_is_noticed(tmp_path):
    path = write_slide(tmp_path / "slide.tif", width=640, height=640, tile=64)
    with Slide(path) as slide:
        image = slide.lazy(level=0)
    copy = pickle.loads(pickle.dumps(image))
    write_slide(path, width=704, height=640, tile=64)
    with pytest.raises(UnreadableImageError, match=r"had the shape \(3, 640, 640\) and is now \(3, 640, 704\)"):
        copy.rows(0, 5)


class Darker(RandomD4):
    """A transform of the user's own, which might draw anything."""


def test_pixels_have_a_version_only_where_nothing_but_the_file_decides_them(tmp_path, monkeypatch):
    path = write_slide(tmp_path / "slide.tif", width=640, height=640, tile=64)
    with Slide(path) as slide:
        assert slide.lazy(level=0).pixel_version is None  # a file just written may change within a tick of its clock
        monkeypatch.setattr(same_file, "REST_NS", 0)
        image = slide.lazy(mpp=0.7, crop="pack", transform=Compose([RandomD4(), CropOrPad(512), MacenkoNormalize()]))
        unknown = [
            slide.lazy(transform=one)
            for one in (lambda image: image, Compose([Darker()]), Compose([RandomD4(), lambda image: image]))
        ]
    assert image.pixel_version is not None
    assert [one.pixel_version for one in [*unknown, LazyImage(pyvips.Image.black(9, 9))]] == [None] * 4
    copy = pickle.loads(pickle.dumps(image))
    assert copy.pixel_version == image.pixel_version
    rows = image.rows(0, 40)
    image.close()
    assert torch.equal(image.rows(0, 40), rows)
    assert image.pixel_version == copy.pixel_version
    before = path.stat()
    with path.open("r+b") as file:  # a byte in place, and the time of modification set back
        file.seek(before.st_size // 2)
        file.write(b"x")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert image.pixel_version is None
    with Slide(path) as slide:
        assert slide.lazy(level=0).pixel_version not in (None, copy.pixel_version)


def test_files_are_let_go_with_the_image(slide):
    """Without help of Python's collector of circles, which may come late: a lazy image may hold hundreds of MB."""
    gc.collect()
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else None
    if before is None:
        pytest.skip("open files cannot be counted here")
    gc.disable()
    try:
        for _ in range(5):
            image = slide.lazy(level=0, crop="pack", transform=RandomD4())
            image.rows(0, 5)
            del image
        assert len(os.listdir("/proc/self/fd")) <= before
    finally:
        gc.enable()


# -- crops -------------------------------------------------------------------------------------------------------------


def test_slide_without_tissue_raises_or_is_whole(tmp_path):
    with Slide(write_pixels(tmp_path / "glass.tif", np.full((300, 400, 3), 243, np.uint8))) as slide:
        with pytest.raises(NoTissueError, match=r"'glass.tif' has no tissue that find_tissue finds.*on_empty"):
            slide.lazy(level=0, crop="tissue")
        assert slide.lazy(level=0, crop=TissueCrop("pack", on_empty="whole")).shape == (3, 300, 400)


def test_crop_that_does_not_exist_is_refused(slide):
    with pytest.raises(ValueError, match=r"crop='tisue' is not one of tissue, pack\. Leave it out"):
        slide.lazy(level=0, crop="tisue")
    with pytest.raises(ValueError, match="on_empty='skip' is not one of raise, whole"):
        TissueCrop("pack", on_empty="skip")


def test_margin_widens_the_crop_up_to_the_edge(tmp_path):
    pixels = np.full((600, 800, 3), 243, np.uint8)
    pixels[160:320, 480:640] = (200, 110, 170)
    with Slide(write_pixels(tmp_path / "slide.tif", pixels, compression="deflate")) as slide:
        shapes = [slide.lazy(level=0, crop=TissueCrop("tissue", margin_px=margin)).shape for margin in (0, 50, 200)]
    assert shapes == [(3, 160, 160), (3, 260, 260), (3, 520, 520)]


# -- in Lightning ------------------------------------------------------------------------------------------------------


def test_device_transfer_leaves_lazy_images_alone(slide):
    images, labels = [slide.lazy(level=1), slide.lazy(level=2)], torch.tensor([0, 1])
    moved, moved_labels = move_data_to_device((images, labels), torch.device("meta"))
    assert moved[0] is images[0]
    assert moved[1] is images[1]
    assert moved_labels.device.type == "meta"


def test_thumbnail_is_the_image_made_small(slide):
    image = slide.lazy(level=0)
    small = image.thumbnail(150)
    assert small.shape == (3, 110, 150)
    assert as_tensor(image, 150).shape == (3, 110, 150)
    assert as_tensor(small) is small
    difference = small.float() - torch.nn.functional.interpolate(
        torch.from_numpy(slide.numpy(level=0)).permute(2, 0, 1)[None].float(), size=(110, 150), mode="area"
    )
    assert difference.abs().mean() < 6
