import math

import numpy as np
import pytest
import pyvips
from scipy.ndimage import map_coordinates

from wsidata.transforms.base import Sample, TransformError
from wsidata.transforms.geometry.affine import AffineMap, RandomAffine, RandomD4, Symmetry
from wsidata.transforms.geometry.crop import CropOrPad, CropWindow

vips = pyvips.Image.new_from_array

WIDTH, HEIGHT = 53, 37


def noise(dtype=np.uint8, bands=3, seed=0):
    top = np.iinfo(dtype).max
    return np.random.default_rng(seed).integers(0, top, (HEIGHT, WIDTH, bands), dtype, endpoint=True)


def pixels_of(image):
    return image.numpy().reshape(image.height, image.width, image.bands)


OPERATIONS = [
    *(Symmetry(turns, mirrored) for turns in range(4) for mirrored in (False, True)),
    CropWindow(5, 3, 30, 20, None, 0),
    CropWindow(-4, 6, 80, 20, None, 0),
    CropWindow(10, -7, 20, 60, 9.0, 0),
]


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_points_go_where_their_pixels_go(operation, dtype):
    for x, y in ((11, 8), (29, 20), (12, 22)):
        pixels = np.zeros((HEIGHT, WIDTH), dtype)
        pixels[y, x] = 200
        sample = Sample(vips(pixels), (vips(pixels),), np.array([[x + 0.5, y + 0.5]])).after(operation)
        for image in (sample.image, sample.masks[0]):
            rows, columns = np.nonzero(pixels_of(image)[:, :, 0] == 200)
            assert list(zip(columns + 0.5, rows + 0.5, strict=True)) == [tuple(sample.points[0])]


def test_windows_fill_pictures_white_and_masks_with_their_own():
    operation = CropWindow(-2, -1, WIDTH + 4, HEIGHT + 2, None, 7)
    for dtype, white in ((np.uint8, 255), (np.uint16, 65535)):
        pixels = noise(dtype)
        sample = Sample(vips(pixels), (vips(pixels[:, :, 0] // 2),)).after(operation)
        expected = np.pad(pixels, ((1, 1), (2, 2), (0, 0)), constant_values=white)
        np.testing.assert_array_equal(pixels_of(sample.image), expected)
        expected = np.pad(pixels[:, :, 0] // 2, ((1, 1), (2, 2)), constant_values=7)
        np.testing.assert_array_equal(pixels_of(sample.masks[0])[:, :, 0], expected)


def test_random_crops_reach_every_place_and_no_other():
    transform = CropOrPad((30, 50), position="random")
    generator = np.random.default_rng(0)
    draws = [transform.draw(vips(noise()), generator) for _ in range(300)]
    assert {draw.left for draw in draws} == set(range(4))
    assert {draw.top for draw in draws} == set(range(8))
    padded = CropOrPad((30, 60), position="random").draw(vips(noise()), generator)
    assert padded.left == -3
    with pytest.raises(TransformError, match="position='left' is not one of center, random"):
        CropOrPad(9, position="left")


def test_center_may_be_spelled_the_british_way():
    assert repr(CropOrPad(9, position="center")) == repr(CropOrPad(9, position="centre")) == repr(CropOrPad(9))


def affine(seed=0):
    transform = RandomAffine(degrees=40, scale=(0.8, 1.3), shear_degrees=10, shift=0.1, mask_fill=3)
    return transform.draw(vips(noise()), np.random.default_rng(seed))


def sources(operation):
    """Where each output pixel's centre comes from, (HEIGHT, WIDTH, 2)."""
    x, y = np.meshgrid(np.arange(WIDTH) + 0.5, np.arange(HEIGHT) + 0.5)
    places = np.stack([x, y], axis=-1) - operation.offset
    return places @ np.linalg.inv(np.array(operation.matrix)).T


@pytest.mark.parametrize("seed", range(6))
def test_affine_masks_take_the_pixel_that_holds_the_place(seed):
    operation, mask = affine(seed), noise(bands=1)
    source = sources(operation)
    column, row = np.floor(source).astype(int).transpose(2, 0, 1)
    inside = (column >= 0) & (column < WIDTH) & (row >= 0) & (row < HEIGHT)
    expected = np.full((HEIGHT, WIDTH), 3, np.uint8)
    expected[inside] = mask[row[inside], column[inside], 0]
    got = pixels_of(operation.mask(vips(mask)))[:, :, 0]
    clear = (np.abs(source - np.rint(source)) > 1e-3).all(axis=-1)  # not on the border of two pixels
    np.testing.assert_array_equal(got[clear], expected[clear])


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("seed", range(3))
def test_affine_pictures_are_bilinear(seed, dtype):
    operation, pixels = affine(seed), noise(dtype)
    source = sources(operation) - 0.5
    places = source[..., ::-1].transpose(2, 0, 1)
    expected = np.stack(
        [map_coordinates(pixels[..., band].astype(float), places, order=1) for band in range(3)],
        axis=-1,
    )  # fmt: skip
    x, y = source.transpose(2, 0, 1)
    inside = (x > 1) & (x < WIDTH - 2) & (y > 1) & (y < HEIGHT - 2)
    got = pixels_of(operation.image(vips(pixels))).astype(float)
    assert inside.sum() > 500
    # libvips interpolates with 12 bits of fraction along each axis, and cuts off
    assert np.abs(got - expected)[inside].max() <= np.iinfo(dtype).max / 2048 + 1
    outside = (x < -1.5) | (x > WIDTH + 0.5) | (y < -1.5) | (y > HEIGHT + 0.5)
    assert (got[outside] == np.iinfo(dtype).max).all()


def test_affine_turns_as_rot90_does():
    pixels = np.random.default_rng(1).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    turn = AffineMap(((0.0, 1.0), (-1.0, 0.0)), (0.0, 32.0), None, 0)
    np.testing.assert_array_equal(pixels_of(turn.image(vips(pixels))), np.rot90(pixels))
    np.testing.assert_array_equal(pixels_of(turn.mask(vips(pixels))), np.rot90(pixels))
    corner = np.array([[3.0, 5.0]])
    np.testing.assert_allclose(turn.points(corner, 32, 32), Symmetry(1, False).points(corner, 32, 32))


def test_affine_turns_counter_clockwise_about_the_centre():
    transform = RandomAffine(degrees=10)
    operation = next(
        one
        for seed in range(50)
        if (one := transform.draw(vips(noise()), np.random.default_rng(seed))).matrix[0][1] > 0
    )
    centre = np.array([[WIDTH / 2, HEIGHT / 2]])
    np.testing.assert_allclose(operation.points(centre, WIDTH, HEIGHT), centre)
    moved = operation.points(centre + np.array([10, 0]), WIDTH, HEIGHT) - centre
    assert moved[0, 1] < 0  # upwards
    assert math.hypot(*moved[0]) == pytest.approx(10)


def test_affine_points_follow_their_mark():
    big = np.zeros((200, 300), np.uint8)
    big[60:71, 100:111] = 255
    transform = RandomAffine(degrees=30, scale=(0.8, 1.2), shear_degrees=5, shift=0.05)
    for seed in range(5):
        sample = transform.run(
            Sample(vips(big), (vips(big),), np.array([[105.5, 65.5]])), np.random.default_rng(seed)
        )  # fmt: skip
        dark = pixels_of(transform(vips(255 - big), np.random.default_rng(seed)))[:, :, 0] < 128
        for marked in (pixels_of(sample.masks[0])[:, :, 0] > 128, dark):
            rows, columns = np.nonzero(marked)
            np.testing.assert_allclose([columns.mean() + 0.5, rows.mean() + 0.5], sample.points[0], atol=0.35)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"degrees": -3}, "degrees=-3"),
        ({"scale": (1.2, 0.8)}, "scale="),
        ({"scale": 0}, "scale=0"),
        ({"shear_degrees": 80}, "at most 60"),
        ({"shift": math.inf}, "shift=inf"),
        ({"p": 2}, "p=2"),
    ],
)
def test_maps_that_are_none_are_refused(options, words):
    with pytest.raises(TransformError, match=words):
        RandomAffine(**options)


def test_geometry_is_lazy():
    huge = pyvips.Image.black(200_000, 200_000, bands=3).copy(interpretation="srgb")
    for transform in (RandomD4(), RandomAffine(degrees=20), CropOrPad(150_000)):
        changed = transform(huge, np.random.default_rng(0))
        assert changed.crop(1000, 1000, 16, 16).numpy().shape == (16, 16, 3)
