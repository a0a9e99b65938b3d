import multiprocessing
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import numpy as np
import pytest
import pyvips
import torch
from places import PHOTOS, SLIDES

from wsidata.datamodules.wsi import WSIDataModule
from wsidata.slides.slide import Slide
from wsidata.slides.tissue.mask import tissue_mask
from wsidata.stats.compute import channel_stats, process_pool
from wsidata.stats.result import ChannelStats, StatsError, StatsWarning


@pytest.fixture
def slides(camelyon):
    return sorted((camelyon / "images").glob("*_00[1-4].tif"))


def arrays(dtype=np.uint8, count=4):
    generator = np.random.default_rng(0)
    top = np.iinfo(dtype).max
    sizes = generator.integers(5, 80, (count, 2))
    return [generator.integers(0, top, (h, w, 3), dtype, endpoint=True) for h, w in sizes]


def assert_pooled(stats, pixels):
    """Against numpy, channel by channel: only contiguous values are summed pairwise, without losing digits."""
    channels = [np.ascontiguousarray(channel) for channel in pixels.reshape(-1, 3).T]
    np.testing.assert_allclose(stats.mean, [channel.mean() for channel in channels], rtol=0, atol=1e-12)
    np.testing.assert_allclose(stats.std, [channel.std() for channel in channels], rtol=0, atol=1e-12)


def upper_half(image):
    return np.array([[True], [False]])


def dark(image):
    return np.asarray(image.numpy()).mean(axis=2) < 200


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_pooled_is_numpys_mean_and_std_of_all_pixels(dtype):
    images = arrays(dtype)
    stats = channel_stats(images)
    pixels = np.concatenate([image.reshape(-1, 3) for image in images]) / np.float64(np.iinfo(dtype).max)
    assert_pooled(stats, pixels)
    assert (stats.count_px, stats.image_count, stats.max_value) == (len(pixels), 4, np.iinfo(dtype).max)


def test_per_image_is_the_mean_of_the_images_own_as_torch_has_them():
    images = arrays()
    tensors = [torch.from_numpy(image).double().div(255).flatten(0, 1) for image in images]
    stats = channel_stats(images, reduction="per_image")
    np.testing.assert_allclose(stats.mean, torch.stack([t.mean(0) for t in tensors]).mean(0), rtol=0, atol=1e-12)
    np.testing.assert_allclose(stats.std, torch.stack([t.std(0) for t in tensors]).mean(0), rtol=0, atol=1e-12)


@pytest.mark.parametrize("resolution", [{}, {"level": 1}, {"mpp": 2.0}, {"max_side": 100}])
def test_slides_are_read_at_the_resolution_asked_for(slides, resolution):
    stats = channel_stats(slides, **resolution)
    pixels = []
    for path in slides:
        with Slide(path) as slide:
            pixels.append(slide.numpy(**resolution).reshape(-1, 3) / 255)
    assert_pooled(stats, np.concatenate(pixels))
    assert stats.resolution == resolution


@pytest.mark.slow
def test_slides_counted_in_strips_have_the_sums_of_the_whole(slides, monkeypatch):
    monkeypatch.setattr("wsidata.stats.pixel_sums.STRIP_BYTES", 40_000)
    for options in ({"level": 0}, {"downsample": 1.7}, {"level": 1, "crop": "pack"}):
        stats = channel_stats(slides, **options)
        resolution = {name: value for name, value in options.items() if name != "crop"}
        pixels = []
        for path in slides:
            with Slide(path) as slide:
                crop = options.get("crop")
                whole = slide.lazy(crop=crop, **resolution) if crop else None
                read = slide.numpy(**resolution) if whole is None else whole.rows(0, whole.shape[1]).permute(1, 2, 0)
                pixels.append(np.asarray(read).reshape(-1, 3) / 255)
        assert_pooled(stats, np.concatenate(pixels))
        assert stats.count_px == sum(len(one) for one in pixels)


@pytest.mark.filterwarnings("ignore:.*mpp_override says")  # the slides state another
def test_spacing_can_be_overridden(slides):
    doubled = channel_stats(slides[:1], mpp=2.0, mpp_override=1.0)
    assert doubled == ChannelStats(**{**vars(channel_stats(slides[:1], downsample=2.0)), "resolution": {"mpp": 2.0}})


@pytest.mark.slow
@pytest.mark.parametrize("reduction", ["pooled", "per_image"])
def test_order_and_number_of_threads_leave_no_trace(slides, reduction):
    expected = channel_stats(slides, level=1, reduction=reduction)
    for workers in (1, 3):
        with ThreadPoolExecutor(workers) as executor:
            got = channel_stats(slides[::-1], level=1, reduction=reduction, executor=executor)
        assert got == expected
        assert got.digest == expected.digest


@pytest.mark.slow
def test_processes_do_not_hang_after_libvips_ran_here(slides):
    expected = channel_stats(slides, level=1, mask=dark)  # libvips has threads now
    with process_pool(2) as executor:
        assert channel_stats(slides, level=1, mask=dark, executor=executor) == expected
        assert channel_stats([Slide(path) for path in slides], level=1, mask=dark, executor=executor) == expected
        with pytest.raises(StatsError, match=r"image 0 \(Image\).*[Pp]ickle"):
            channel_stats([pyvips.Image.black(4, 4)], executor=executor)


def test_a_pool_that_forks_is_refused(slides):
    context = multiprocessing.get_context("fork")
    with (
        ProcessPoolExecutor(1, mp_context=context) as executor,
        pytest.raises(StatsError, match=r"forks, and libvips hangs.*process_pool\(workers\)"),
    ):
        channel_stats(slides, executor=executor)


def test_mask_of_ones_own_decides_which_pixels_count():
    images = arrays()
    images = [image[: len(image) // 2 * 2] for image in images]
    halves = [image[: len(image) // 2] for image in images]
    for reduction in ("pooled", "per_image"):
        got, expected = channel_stats(images, mask=upper_half, reduction=reduction), channel_stats(halves)
        if reduction == "pooled":
            assert (got.mean, got.std, got.count_px) == (expected.mean, expected.std, expected.count_px)
        assert got.tissue_only


@pytest.mark.slow
@pytest.mark.parametrize("resolution", [{"level": 1}, {"mpp": 1.7}, {"max_side": 77}])
def test_only_tissue_counts(slides, resolution):
    inside = []
    for path in slides:
        with Slide(path) as slide:
            pixels, mask, down = slide.numpy(**resolution), slide.tissue_mask(), slide.downsample_at(**resolution)
        places = [
            np.minimum(np.floor((np.arange(side) + 0.5) * own / cell).astype(int), cells - 1)
            for side, own, cell, cells in (
                (pixels.shape[0], down[1], mask.downsample_y, mask.pixels.shape[0]),
                (pixels.shape[1], down[0], mask.downsample_x, mask.pixels.shape[1]),
            )
        ]
        inside.append(pixels[mask.pixels[np.ix_(*places)]])
    stats = channel_stats(slides, tissue_only=True, **resolution)
    pixels = np.concatenate(inside)
    assert stats.count_px == len(pixels) > 0
    assert_pooled(stats, pixels / 255)
    assert max(stats.mean) < min(channel_stats(slides, **resolution).mean) + 0.1


def test_tissue_of_pictures_in_memory(slides):
    with Slide(slides[0]) as slide:
        pixels = slide.numpy(level=0)
    mask = tissue_mask(pyvips.Image.new_from_array(pixels))
    assert_pooled(channel_stats([pixels], tissue_only=True), pixels[mask] / 255)


@pytest.mark.slow
@pytest.mark.parametrize("crop", ["tissue", "pack"])
def test_cropped_slides_are_counted_as_the_data_module_reads_them(camelyon, crop):
    table = camelyon / "evaluation" / "reference.csv"
    module = WSIDataModule(table, image_dir=camelyon / "images", test_prefix="test_", level=0, crop=crop)
    dataset = module.make_dataset("train")
    pixels = []
    for row, path in enumerate(dataset.paths):
        with Slide(path) as slide:
            pixels.append(dataset.packing(row, slide).apply(slide.image(level=0)).numpy().reshape(-1, 3))
    assert_pooled(module.stats, np.concatenate(pixels) / 255)
    assert module.stats.crop == crop
    assert ChannelStats.from_json(module.stats.to_json()) == module.stats
    whole = channel_stats(dataset.paths, level=0)
    assert module.stats.count_px < whole.count_px


def test_every_bad_image_is_named_at_once(slides, tmp_path):
    broken, absent = tmp_path / "broken.tif", tmp_path / "absent.tif"
    broken.write_bytes(slides[0].read_bytes()[:3000])
    for executor in (None, ThreadPoolExecutor(2)):
        with pytest.raises(StatsError) as error:
            channel_stats([slides[0], broken, absent, np.zeros((4, 4, 3))], executor=executor)
        message = str(error.value)
        assert "3 problems" in message
        assert "broken.tif: UnreadableImageError" in message
        assert "absent.tif: FileNotFoundError" in message
        assert "image 3 (ndarray): PixelCountError: the image's pixels are 'double'" in message


def test_decoding_errors_that_come_late_name_the_file(slides, tmp_path):
    broken = tmp_path / "broken.tif"
    data = bytearray(slides[0].read_bytes())
    with Slide(slides[0]) as slide:
        pixels = len(slide.numpy())
    assert pixels
    data[len(data) // 3 : len(data) // 3 + 4000] = bytes(4000)
    broken.write_bytes(data)
    with pytest.raises(StatsError, match=r"broken.tif: \w+Error"):
        channel_stats([broken])


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (np.zeros((4, 4, 3), np.uint16), "has 3 channels up to 65535, and image 0"),
        (np.zeros((4, 4), np.uint8), "has 1 channels up to 255"),
    ],
)
def test_images_of_another_kind_are_named(other, words):
    with pytest.raises(StatsError, match=rf"image 1 \(ndarray\): {words}"):
        channel_stats([np.zeros((4, 4, 3), np.uint8), other])


def test_images_without_a_pixel_to_count_are_named():
    with pytest.raises(StatsError, match=r"image 1 \(ndarray\): 0 pixels to count, at least 1"):
        channel_stats([np.zeros((4, 4, 3), np.uint8), np.full((4, 4, 3), 255, np.uint8)], mask=dark)
    with pytest.raises(StatsError, match="1 pixels to count, at least 2"):
        channel_stats([np.zeros((1, 1, 3), np.uint8)], reduction="per_image")


@pytest.mark.parametrize("reduction", ["pooled", "per_image"])
def test_images_that_cannot_be_read_are_left_out_if_asked_and_named(slides, tmp_path, reduction):
    broken = tmp_path / "broken.tif"
    broken.write_bytes(slides[0].read_bytes()[:3000])
    mixed = [slides[0], broken, *slides[1:3], tmp_path / "gone.tif"]
    with pytest.raises(StatsError, match=r"2 problems:\n.*broken.tif.*\n.*gone.tif.*\n.*on_error='skip'"):
        channel_stats(mixed, level=1, reduction=reduction)
    with pytest.warns(StatsWarning, match=r"broken.tif: Unreadable.*\n.*gone.tif.*\nThey are left out; 3 of 5 are"):
        stats = channel_stats(mixed, level=1, reduction=reduction, on_error="skip")
    assert [name for name, _ in stats.skipped] == [str(broken), str(tmp_path / "gone.tif")]
    whole = channel_stats(slides[:3], level=1, reduction=reduction)
    assert (stats.mean, stats.std, stats.digest) == (whole.mean, whole.std, whole.digest)
    assert ChannelStats.from_json(stats.to_json()) == stats


def test_images_without_a_pixel_to_count_are_left_out_if_asked():
    images = [np.full((4, 4, 3), 255, np.uint8), np.zeros((4, 4, 3), np.uint8)]
    with pytest.warns(StatsWarning, match=r"image 0 \(ndarray\): 0 pixels to count"):
        stats = channel_stats(images, mask=dark, on_error="skip")
    assert (stats.image_count, stats.mean) == (1, (0.0, 0.0, 0.0))


def test_only_what_is_wrong_with_an_image_is_skipped(slides):
    def fails(image):
        raise RuntimeError("a mistake in this mask")

    with pytest.raises(StatsError, match="a mistake in this mask"):
        channel_stats([*slides[:2]], mask=fails, level=1, on_error="skip")
    with pytest.raises(StatsError, match="has 1 channels up to 255"):
        channel_stats([np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4), np.uint8)], on_error="skip")
    with pytest.raises(StatsError, match="2 problems"):
        channel_stats(["/nowhere/a.tif", "/nowhere/b.tif"], on_error="skip")
    with pytest.raises(ValueError, match="on_error='warn' is not one of raise, skip"):
        channel_stats(slides, on_error="warn")


@pytest.mark.parametrize(
    ("images", "options", "words"),
    [
        ([], {}, "there are no images"),
        (["a"], {"reduction": "mean"}, "is not one of pooled, per_image"),
        (["a"], {"tissue_only": True, "mask": dark}, "Pass one of them"),
        (["a"], {"tissue_only": True, "crop": "pack"}, "leaves out all that crop= would"),
        ([np.zeros((4, 4, 3), np.uint8)], {"crop": "tissue"}, "cannot be cropped to tissue"),
        ([np.zeros((4, 4, 3), np.uint8)], {"level": 1}, "cannot be read at {'level': 1}"),
    ],
)
def test_arguments_are_checked(images, options, words):
    with pytest.raises(StatsError, match=words):
        channel_stats(images, **options)


def test_progress_is_told():
    seen = []
    channel_stats(arrays(), progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_spacing_as_a_pair_survives_json(slides):
    stats = channel_stats(slides[:1], mpp=(2.0, 2.0))
    assert ChannelStats.from_json(stats.to_json()) == stats


@pytest.mark.skipif(not PHOTOS.is_dir(), reason="the real photos are not here")
def test_mushroom_photos_as_their_notebook_does_it():
    paths = [path for path in sorted(PHOTOS.rglob("*")) if path.suffix.lower() in (".jpg", ".jpeg")][:6]
    per_photo = []
    for path in paths:
        with Slide(path) as photo:
            per_photo.append(torch.from_numpy(photo.numpy()).double().div(255).flatten(0, 1))
    stats = channel_stats(paths, reduction="per_image")
    np.testing.assert_allclose(stats.mean, torch.stack([one.mean(0) for one in per_photo]).mean(0), atol=1e-12)
    np.testing.assert_allclose(stats.std, torch.stack([one.std(0) for one in per_photo]).mean(0), atol=1e-12)


@pytest.mark.slow
@pytest.mark.skipif(not SLIDES.is_dir(), reason="the real slides are not here")
def test_real_slide():
    path = SLIDES / "CMU-1-Small-Region.svs"
    with Slide(path) as slide:
        pixels = slide.numpy(level=0).reshape(-1, 3) / 255
    stats = channel_stats([path], level=0)
    assert_pooled(stats, pixels)


@pytest.mark.filterwarnings("ignore:.*mpp_override says")  # the slides state another
def test_data_module_has_the_statistics_of_its_training_slides(camelyon):
    table = camelyon / "evaluation" / "reference.csv"
    module = WSIDataModule(table, image_dir=camelyon / "images", test_prefix="test_", level=1, mpp_override=0.5)
    assert module.stats == channel_stats(module.tables["train"]["path"], level=1, mpp_override=0.5)
    assert module.stats.image_count == len(module.tables["train"]) < 16


@pytest.mark.skipif(not SLIDES.is_dir(), reason="the real slides are not here")
def test_real_16_bit_channels():
    slide = Slide(SLIDES / "2048x2048_ome6_tiled.ome.tif", channels=[0, 2])
    channels = slide.numpy(level=1).reshape(-1, 2).T / 65535
    stats = channel_stats([slide], level=1)
    assert stats.max_value == 65535
    np.testing.assert_allclose(stats.mean, [np.ascontiguousarray(one).mean() for one in channels], rtol=0, atol=1e-12)
    np.testing.assert_allclose(stats.std, [np.ascontiguousarray(one).std() for one in channels], rtol=0, atol=1e-12)
