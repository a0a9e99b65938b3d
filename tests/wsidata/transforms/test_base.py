import warnings

import numpy as np
import pytest
import pyvips

from wsidata.transforms.adapters.functions import FunctionTransform
from wsidata.transforms.base import (
    COSTLY,
    GIGAPIXEL_PX,
    GigapixelWarning,
    Operation,
    Sample,
    TransformError,
    check_limit,
    check_range,
)
from wsidata.transforms.color.stain import StainJitter
from wsidata.transforms.color.tone import Blur, ToneJitter
from wsidata.transforms.compose import Compose, default_train_transform, he_train_transform
from wsidata.transforms.geometry.affine import RandomD4
from wsidata.transforms.geometry.crop import CropOrPad
from wsidata.transforms.geometry.elastic import Elastic


def black(side):
    return pyvips.Image.black(side, side, bands=3).copy(interpretation="srgb")


def test_masks_of_another_size_are_refused():
    with pytest.raises(TransformError, match=r"a mask is 5 x 6 pixels and its image 9 x 9"):
        RandomD4().run(Sample(black(9), (pyvips.Image.black(5, 6),)))


def test_costly_steps_on_very_large_pictures_say_so():
    side = int(GIGAPIXEL_PX**0.5)
    with pytest.warns(GigapixelWarning, match=rf"ElasticField on {side} x {side} pixels costs about 10 times"):
        Elastic()(black(side), np.random.default_rng(0))
    with pytest.warns(GigapixelWarning, match="ElasticField"):
        Compose([StainJitter(), Elastic()])(black(side), np.random.default_rng(0))


def test_cheap_steps_and_cropped_pictures_do_not():
    side = int(GIGAPIXEL_PX**0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        default_train_transform(1024)(black(side), np.random.default_rng(0))
        Compose([RandomD4(), ToneJitter(), Blur()])(black(side), np.random.default_rng(0))
        Compose([CropOrPad(4096), Elastic(), StainJitter()])(black(side), np.random.default_rng(0))


def test_functions_that_hold_a_very_large_picture_in_memory_say_so():
    def as_array(image):
        return np.zeros((1, 1, 3), np.uint8)

    with pytest.warns(GigapixelWarning, match=r"'.*as_array' made a ndarray .* holds all of it in memory"):
        FunctionTransform(as_array)(black(int(GIGAPIXEL_PX**0.5)), np.random.default_rng(0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        FunctionTransform(as_array)(black(64), np.random.default_rng(0))


def test_every_operation_states_its_cost():
    for kind in Operation.known.values():
        assert 0 < kind.cost < 10 * COSTLY


@pytest.mark.parametrize("size", [64, (40, 80), None])
def test_preset_for_stained_slides_gives_the_size_and_differs_by_seed(size):
    pixels = np.random.default_rng(0).integers(100, 256, (60, 60, 3), dtype=np.uint8)
    image = pyvips.Image.new_from_array(pixels)
    results = [he_train_transform(size)(image, np.random.default_rng(seed)).numpy() for seed in range(6)]
    expected = (60, 60) if size is None else (64, 64) if size == 64 else size
    assert {result.shape for result in results} == {(*expected, 3)}
    assert len({result.tobytes() for result in results}) == 6
    again = he_train_transform(size)(image, np.random.default_rng(0)).numpy()
    np.testing.assert_array_equal(again, results[0])


def test_limits_are_one_number():
    assert check_limit("x", 2) == 2.0
    for value in (-1, (0, 1), float("nan"), float("inf")):
        with pytest.raises(TransformError, match="must be one number of at least 0"):
            check_limit("x", value)


def test_ranges_are_checked():
    assert check_range("x", 2, 0) == (2.0, 2.0)
    for value in ((2, 1), -1, (0, float("nan")), float("inf")):
        with pytest.raises(TransformError, match="must be a range"):
            check_range("x", value, 0)


@pytest.mark.parametrize("points", [np.zeros((4, 3)), np.zeros(2), [[1.0, 2.0]]])
def test_points_of_another_shape_are_refused(points):
    with pytest.raises(TransformError, match=r"points must be an \(N, 2\) array"):
        RandomD4().run(Sample(pyvips.Image.black(9, 9, bands=3), points=points), np.random.default_rng(0))
