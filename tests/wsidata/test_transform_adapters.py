import pickle
import random

import albumentationsxl as A
import numpy as np
import pytest
import pyvips
import torch

from wsidata.transform_adapters import (
    REFUSED,
    AlbumentationsXL,
    FunctionTransform,
    as_transform,
    check_pipeline,
    seeded_globals,
)
from wsidata.transform_base import TransformError
from wsidata.transforms import Compose, RandomRotate90


@pytest.fixture
def image():
    pixels = np.random.default_rng(0).integers(0, 256, (48, 48, 3), dtype=np.uint8)
    return pyvips.Image.new_from_array(pixels, interpretation="srgb")


def test_published_pipeline_runs_as_it_is(image):
    pipeline = A.Compose([A.CropOrPad(64, 64), A.Flip(p=0.5), A.ToDtype("float", scale=True), A.ToTensor()])
    result = as_transform(pipeline)(image, np.random.default_rng(0))
    assert isinstance(result, torch.Tensor)
    assert result.shape == (3, 64, 64)
    assert result.dtype == torch.float32
    assert (result[:, 0, 0] == 1.0).all()


def test_pipeline_follows_the_generator_and_leaves_random_alone(image):
    pipeline = as_transform(A.Compose([A.Flip(p=0.7), A.RandomCrop(20, 20), A.OneOf([A.Blur(p=1), A.NoOp(p=1)], p=1)]))
    random.seed(3)
    state = random.getstate()
    draws = [pipeline(image, np.random.default_rng(seed)).numpy().tobytes() for seed in range(8)]
    assert random.getstate() == state
    random.seed(4)
    assert [pipeline(image, np.random.default_rng(seed)).numpy().tobytes() for seed in range(8)] == draws
    assert len(set(draws)) == 8


def test_all_global_generators_are_seeded_and_restored():
    def draw():
        return random.random(), np.random.rand(), torch.rand(()).item()

    torch.manual_seed(11)
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    with seeded_globals(np.random.default_rng(1)):
        inside = draw()
    with seeded_globals(np.random.default_rng(1)):
        assert draw() == inside
    with pytest.raises(ZeroDivisionError), seeded_globals(np.random.default_rng(1)):
        _ = draw()[0] / 0
    assert (random.getstate(), np.random.get_state()[1].tolist()) == states[:2]
    assert torch.equal(torch.get_rng_state(), states[2])
    assert torch.initial_seed() == 11


def refused(name):
    """An instance, made without its constructor where that cannot run."""
    return object.__new__(getattr(A, name)) if hasattr(A, name) else None


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_broken_members_are_refused_by_name_wherever_they_are_nested(name):
    member = refused(name)
    if member is None:  # PerChannel is not exported
        from albumentationsxl.core.composition import PerChannel

        member = object.__new__(PerChannel)
    reason, replacement = REFUSED[name]
    nested = A.Compose([A.Flip(), A.Sequential([A.NoOp(), A.NoOp()])])
    nested.transforms[1].transforms[1] = member
    for pipeline in (member, nested):
        with pytest.raises(TransformError) as error:
            as_transform(pipeline)
        assert f"albumentationsxl.{name} {reason}" in str(error.value)
        assert f"Use {replacement} instead." in str(error.value)


def test_refusals_hold_for_subclasses_and_inside_our_compose():
    class Mine(A.RandomRotate90):
        pass

    with pytest.raises(TransformError, match=r"RandomRotate90.*wsidata.transforms.RandomRotate90"):
        Compose([RandomRotate90(), Mine()])


@pytest.mark.parametrize(
    ("member", "message"),
    [
        (A.Rotate(crop_border=True), "crop_border=True.*half of the picture"),
        (A.PadIfNeeded(64, 64), r"without value=. Pass value=\[255, 255, 255\]"),
        (A.Normalize(mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2)), "works with lists only"),
    ],
)
def test_arguments_that_go_wrong_are_refused(member, message):
    with pytest.raises(TransformError, match=message):
        check_pipeline(A.Compose([A.Flip(), member]))


@pytest.mark.parametrize("member", [A.HueSaturationValue(), A.HEDShift(), A.Sharpen(), A.CropOrPad(9, 9), A.Affine()])
def test_members_that_need_bytes_are_refused_after_floats(member):
    check_pipeline(A.Compose([member, A.ToDtype("float", scale=True)]))
    with pytest.raises(TransformError, match=r"after ToDtype\('float'\). Put it before ToDtype"):
        check_pipeline(A.Compose([A.ToDtype("float", scale=True), member]))


def test_pipeline_refuses_pictures_that_are_not_8_bit(image):
    with pytest.raises(TransformError, match="this one is 'float'"):
        AlbumentationsXL(A.Flip(p=1))(image.cast("float"))


def test_affine_can_be_sent_to_workers(image):
    pipeline = as_transform(A.Compose([A.Affine(rotate=(-20, 20), p=1), A.Rotate(limit=20, p=1)]))
    copy = pickle.loads(pickle.dumps(pipeline))
    expected = pipeline(image, np.random.default_rng(0)).numpy()
    np.testing.assert_array_equal(copy(image, np.random.default_rng(0)).numpy(), expected)


def test_callables_are_seeded_per_sample(image):
    def drift(picture):
        return picture.linear(1, [random.random(), np.random.rand(), torch.rand(()).item()])

    noise = FunctionTransform(drift)
    first, again, other = (noise(image, np.random.default_rng(seed)).numpy() for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any(axis=(0, 1)).all()


def test_what_is_no_transform_is_refused():
    with pytest.raises(TransformError, match="'flip' is no transform"):
        as_transform("flip")
