import numpy as np
import pytest
import pyvips
from scipy.ndimage import map_coordinates

from wsidata.transforms.base import Sample, TransformError
from wsidata.transforms.geometry.elastic import MAX_SHARE, Elastic, ElasticField

vips = pyvips.Image.new_from_array

WIDTH, HEIGHT = 211, 157
FIELD = ElasticField(seed=5, alpha_px=10.0, cell_px=48, fill=None, mask_fill=7)

FIRST_NODE = [0.945400, -2.053888]
"""Displacement at the first pixel's centre, as computed when this was written."""


def noise(dtype=np.uint8, bands=3):
    top = np.iinfo(dtype).max
    return np.random.default_rng(0).integers(0, top, (HEIGHT, WIDTH, bands), dtype, endpoint=True)


def pixels_of(image):
    return image.numpy().reshape(image.height, image.width, image.bands)


def displacements(field, width=WIDTH, height=HEIGHT):
    """At every pixel's centre, linear between the nodes, computed without libvips: (height, width, 2)."""
    step = field.cell_px // 8
    nodes = field.nodes(width, height)
    places = np.mgrid[:height, :width] / step
    return np.stack([map_coordinates(nodes[..., axis].astype(float), places, order=1) for axis in range(2)], axis=-1)


def sources(field):
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    return np.stack([x, y], axis=-1) + 0.5 + displacements(field)


def test_field_is_as_strong_as_asked_for_and_smooth():
    d = displacements(FIELD)
    assert 0.4 * FIELD.alpha_px < np.abs(d).max() <= FIELD.alpha_px
    assert np.abs(np.diff(d, axis=0)).max() <= 2 * FIELD.alpha_px / FIELD.cell_px
    assert np.abs(np.diff(d, axis=1)).max() <= 2 * FIELD.alpha_px / FIELD.cell_px
    assert abs(d.mean()) < 3


def test_field_follows_its_seed_for_ever():
    np.testing.assert_array_equal(FIELD.nodes(99, 99), FIELD.nodes(99, 99))
    assert (FIELD.nodes(99, 99) != ElasticField(6, 10.0, 48, None, 0).nodes(99, 99)).any()
    first = FIELD.nodes(99, 99)[0, 0]
    np.testing.assert_allclose(first, FIRST_NODE, atol=1e-5)  # written down; NumPy promises this stream


def test_masks_take_the_pixel_that_holds_the_place():
    mask = noise(bands=1)
    source = sources(FIELD)
    column, row = np.floor(source).astype(int).transpose(2, 0, 1)
    inside = (column >= 0) & (column < WIDTH) & (row >= 0) & (row < HEIGHT)
    expected = np.full((HEIGHT, WIDTH), 7, np.uint8)
    expected[inside] = mask[row[inside], column[inside], 0]
    clear = (np.abs(source - np.rint(source)) > 1e-2).all(axis=-1)
    np.testing.assert_array_equal(pixels_of(FIELD.mask(vips(mask)))[:, :, 0][clear], expected[clear])


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_pictures_are_bilinear(dtype):
    pixels = noise(dtype)
    source = sources(FIELD) - 0.5
    places = source[..., ::-1].transpose(2, 0, 1)
    expected = np.stack([map_coordinates(pixels[..., b].astype(float), places, order=1) for b in range(3)], axis=-1)
    x, y = source.transpose(2, 0, 1)
    inside = (x > 1) & (x < WIDTH - 2) & (y > 1) & (y < HEIGHT - 2)
    got = pixels_of(FIELD.image(vips(pixels))).astype(float)
    assert np.abs(got - expected)[inside].max() <= np.iinfo(dtype).max / 1024 + 1
    outside = (x < -1.5) | (x > WIDTH + 0.5) | (y < -1.5) | (y > HEIGHT + 0.5)
    assert outside.any()
    assert (got[outside] == np.iinfo(dtype).max).all()


def test_points_follow_their_pixels():
    rows, columns = np.mgrid[30:130:7, 30:180:9]
    source = sources(FIELD)
    sources_of_pixels = source[rows.ravel(), columns.ravel()]
    found = FIELD.points(sources_of_pixels, WIDTH, HEIGHT)
    np.testing.assert_allclose(found, np.stack([columns.ravel(), rows.ravel()], axis=1) + 0.5, atol=1e-3)


@pytest.mark.parametrize("seed", range(5))
def test_strongest_field_does_not_fold_and_can_be_inverted(seed):
    field = ElasticField(seed, MAX_SHARE * 32, 32, None, 0)
    d = displacements(field)
    dx, dy = np.gradient(d, axis=1), np.gradient(d, axis=0)
    assert ((1 + dx[..., 0]) * (1 + dy[..., 1]) - dx[..., 1] * dy[..., 0]).min() > 0
    points = np.random.default_rng(seed).uniform([20, 20], [WIDTH - 20, HEIGHT - 20], (50, 2))
    found = field.points(points, WIDTH, HEIGHT)
    y, x = (found[:, ::-1] - 0.5).T
    back = found + np.stack([map_coordinates(d[..., axis], [y, x], order=1) for axis in range(2)], axis=1)
    np.testing.assert_allclose(back, points, atol=0.3)


def test_picture_mask_and_points_share_one_field():
    marked = np.zeros((HEIGHT, WIDTH), np.uint8)
    marked[70:81, 100:111] = 255
    transform = Elastic(alpha_px=8, cell_px=64)
    sample = Sample(vips(255 - marked), (vips(marked), vips(marked)), np.array([[105.5, 75.5]]))
    changed = transform.run(sample, np.random.default_rng(1))
    places = [
        np.argwhere(found[:, :, 0]).mean(axis=0)[::-1] + 0.5
        for found in (pixels_of(changed.image) < 128, pixels_of(changed.masks[0]), pixels_of(changed.masks[1]))
    ]
    assert np.abs(places[0] - [105.5, 75.5]).max() > 0.5
    for place in places:
        np.testing.assert_allclose(place, changed.points[0], atol=0.5)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"alpha_px": 33, "cell_px": 128}, r"0.25 \* cell_px = 32.*fold the tissue"),
        ({"alpha_px": -1}, "between 0 and"),
        ({"cell_px": 60}, "multiple of 8"),
        ({"cell_px": 0}, "multiple of 8"),
    ],
)
def test_fields_that_would_fold_are_refused(options, words):
    with pytest.raises(TransformError, match=words):
        Elastic(**options)
