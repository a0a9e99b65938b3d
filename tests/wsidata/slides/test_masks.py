import numpy as np
import pytest
import pyvips

from wsidata.slides.masks import MaskError, mask_classes, mask_tensor, read_mask
from wsidata.slides.slide import Slide

HEIGHT, WIDTH = 371, 530
TILES = {"tile": True, "tile_width": 64, "tile_height": 64, "compression": "deflate"}


@pytest.fixture(scope="module")
def values():
    return np.random.default_rng(0).integers(0, 3, (HEIGHT, WIDTH), dtype=np.uint8)


@pytest.fixture
def slide(tmp_path):
    pixels = np.random.default_rng(1).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    pyvips.Image.new_from_array(pixels).tiffsave(str(tmp_path / "slide.tif"), pyramid=True, **TILES)
    with Slide(tmp_path / "slide.tif") as opened:
        yield opened


def save(values, path, **options):
    pyvips.Image.new_from_array(values).write_to_file(str(path), **options)
    return path


def under_centers(values, slide, resolution):
    """The mask's pixel under the center of each pixel of the slide, by the definition."""
    width, height = slide.size_at(**resolution)
    x, y = slide.downsample_at(**resolution)
    scale_x, scale_y = values.shape[1] / slide.width, values.shape[0] / slide.height
    columns = np.minimum((np.arange(width) + 0.5) * x * scale_x + 1e-6, values.shape[1] - 1).astype(int)
    rows = np.minimum((np.arange(height) + 0.5) * y * scale_y + 1e-6, values.shape[0] - 1).astype(int)
    return values[rows][:, columns]


@pytest.mark.parametrize("resolution", [{"level": 0}, {"level": 2}, {"downsample": 3.3}, {"max_side": 101}], ids=str)
@pytest.mark.parametrize(("name", "options"), [("m.tif", TILES), ("p.tif", TILES | {"pyramid": True}), ("m.png", {})])
def test_mask_lies_on_the_slides_grid_to_the_pixel(tmp_path, slide, values, resolution, name, options):
    classes = mask_classes(3)
    mask = read_mask(save(values, tmp_path / name, **options), slide, resolution, classes)
    assert np.array_equal(mask_tensor(mask, name, classes).numpy(), under_centers(values, slide, resolution))


def test_coarse_mask_is_enlarged_without_mixing(tmp_path, slide, values):
    coarse = np.ascontiguousarray(values[: -(-HEIGHT // 8), : -(-WIDTH // 8)])
    mask = mask_tensor(
        read_mask(save(coarse, tmp_path / "c.png"), slide, {"level": 0}, mask_classes(3)), "c", {0: 0, 1: 1, 2: 2}
    )
    assert np.array_equal(mask.numpy(), coarse.repeat(8, 0).repeat(8, 1)[:HEIGHT, :WIDTH])


def test_averaged_pyramid_of_three_classes_is_not_believed(tmp_path, slide, values):
    path = save(values, tmp_path / "m.tif", pyramid=True, region_shrink="mean", **TILES)
    mask = mask_tensor(read_mask(path, slide, {"level": 2}, mask_classes(3)), "m", mask_classes(3))
    assert np.array_equal(mask.numpy(), under_centers(values, slide, {"level": 2}))


def test_pixel_values_become_class_numbers_and_others_are_refused(tmp_path, slide, values):
    classes = mask_classes(2, [0, 255])
    path = save((values > 0).astype(np.uint8) * 255, tmp_path / "m.png")
    assert set(mask_tensor(read_mask(path, slide, {"level": 1}, classes), "m", classes).unique().tolist()) == {0, 1}
    with pytest.raises(MaskError, match=r"'m' holds other values than \[0, 255\]"):
        mask_tensor(read_mask(save(values, tmp_path / "n.png"), slide, {"level": 1}, classes), "m", classes)
    colored = np.stack([values, values, 1 - values // 2], axis=2)
    path = save(colored, tmp_path / "c.png")
    with pytest.raises(MaskError, match="one band"):
        mask_tensor(read_mask(path, slide, {"level": 0}, mask_classes(3)), "c", mask_classes(3))


def test_lossy_and_averaged_masks_of_two_classes_are_refused(tmp_path, slide, values):
    two, classes = (values > 0).astype(np.uint8) * 255, mask_classes(2, [0, 255])
    for name, options in (("m.jpg", {}), ("p.tif", TILES | {"pyramid": True, "region_shrink": "mean"})):
        mask = read_mask(save(two, tmp_path / name, **options), slide, {"level": 2}, classes)
        with pytest.raises(MaskError, match="without lossy compression"):
            mask_tensor(mask, name, classes)


def test_pixels_of_no_class_are_ignored_by_cross_entropy():
    mask = pyvips.Image.new_from_array(np.array([[0, 1, 255]], dtype=np.uint8))
    assert mask_tensor(mask, "m", mask_classes(2)).tolist() == [[0, 1, -100]]


def test_mask_of_another_shape_is_refused(tmp_path, slide, values):
    path = save(np.ascontiguousarray(values[:, : WIDTH // 2]), tmp_path / "half.png")
    with pytest.raises(MaskError, match=r"has another shape than slide 'slide.tif' \(530 x 371 px\)"):
        read_mask(path, slide, {"level": 0}, mask_classes(3))


@pytest.mark.parametrize("values", [[0], [0, 0], [0, 300], [0, 1, 2]])
def test_values_that_do_not_fit_the_classes_are_refused(values):
    with pytest.raises(MaskError, match="must be 2 distinct values"):
        mask_classes(2, values)
