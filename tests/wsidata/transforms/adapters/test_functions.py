import pickle
import random

import albumentationsxl as A
import numpy as np
import pytest
import pyvips
import torch

from wsidata.transforms.adapters.albumentations_xl import BROKEN, check_pipeline
from wsidata.transforms.adapters.functions import AlbumentationsXL, FunctionTransform, as_transform, seeded_globals
from wsidata.transforms.base import GIGAPIXEL_PX, GigapixelWarning, Sample, TransformError
from wsidata.transforms.compose import Compose
from wsidata.transforms.geometry.affine import RandomRotate90


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


@pytest.mark.parametrize("name", sorted(BROKEN))
def test_broken_members_are_refused_by_name_wherever_they_are_nested(name):
    member = refused(name)
    if member is None:  # PerChannel is not exported
        from albumentationsxl.core.composition import PerChannel

        member = object.__new__(PerChannel)
    reason, replacement = BROKEN[name]
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
        (A.Rotate(crop_border=True), "crop_border=True.*half of the image"),
        (A.PadIfNeeded(64, 64), r"without value=. Pass value=\[255, 255, 255\]"),
        (A.GaussianBlur(min_amplitude=0.01), "changes the brightness.*wsidata.transforms.Blur"),
        (A.RandomBrightnessContrast(brightness_by_max=False), "decodes the whole image once more"),
        (A.Normalize(mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2)), "works with lists only"),
    ],
)
def test_arguments_that_go_wrong_are_refused(member, message):
    with pytest.raises(TransformError, match=message):
        check_pipeline(A.Compose([A.Flip(), member]))


@pytest.mark.parametrize("member", [A.HueSaturationValue(0), A.HEDShift(), A.Sharpen(), A.CropOrPad(9, 9), A.Affine()])
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


def test_masks_go_through_an_albumentationsxl_pipeline_with_their_picture(image):
    transform = as_transform(A.Compose([A.Flip(p=1), A.RandomCrop(20, 30), A.Resize(33, 44), A.CropOrPad(50, 50)]))
    mask = image.extract_band(0)
    for seed in range(6):
        changed = transform.run(Sample(image, (mask, image.extract_band(1))), np.random.default_rng(seed))
        alone = transform(image, np.random.default_rng(seed)).numpy()
        np.testing.assert_array_equal(changed.image.numpy(), alone)
        for found, band in zip(changed.masks, (0, 1), strict=True):
            assert (found.width, found.height) == (50, 50)
            values = found.numpy().reshape(50, 50, -1)[:, :, 0].astype(int)
            near = np.abs(values - alone[:, :, band])[10:40, 5:45]  # resized otherwise, but the same place
            assert near.mean() < np.abs(values - alone[::-1, :, band])[10:40, 5:45].mean() / 1.5


def test_points_are_refused_by_albumentationsxl(image):
    with pytest.raises(TransformError, match="moves points wrongly or not at all"):
        as_transform(A.Flip(p=1)).run(Sample(image, points=np.zeros((1, 2))))


def test_functions_keep_masks_only_if_they_move_no_pixel(image):
    sample = Sample(image, (image.extract_band(0),))
    with pytest.raises(TransformError, match="'darker' changes the image, and its masks and points would stay"):
        as_transform(darker).run(sample)
    changed = FunctionTransform(darker, colours_only=True).run(sample)
    assert changed.masks == sample.masks
    np.testing.assert_array_equal(changed.image.numpy(), image.numpy() // 2)
    with pytest.raises(TransformError, match="colors_only=True, and yet it changed the image's size"):
        FunctionTransform(pyvips.Image.rot90, colors_only=True)(image.crop(0, 0, 10, 20))


def darker(picture):
    return (picture // 2).cast("uchar")


def test_pictures_on_which_a_member_is_wrong_are_refused(image):
    grey = image.extract_band(0)
    with pytest.raises(TransformError, match=r"albumentationsxl.HEDShift needs 3 channels, and this image has 1"):
        as_transform(A.Compose([A.Flip(), A.HEDShift()]))(grey)
    with pytest.raises(TransformError, match="gray and RGB images only, and this one has 4"):
        as_transform(A.Flip(p=1))(image.bandjoin(grey))
    with pytest.raises(TransformError, match=r"RandomCrop\(64, 40\) of an image of 48 x 48.*position='random'"):
        as_transform(A.Compose([A.Flip(), A.RandomCrop(64, 40)]))(image)
    assert as_transform(A.Compose([A.CropOrPad(80, 80), A.RandomCrop(64, 40)]))(image).height == 64
    assert as_transform(A.Flip(p=1))(grey).bands == 1


def test_costly_members_say_so_on_very_large_pictures():
    side = int(GIGAPIXEL_PX**0.5)
    huge = pyvips.Image.black(side, side, bands=3).copy(interpretation="srgb")
    with pytest.warns(GigapixelWarning, match=r"albumentationsxl.MedianBlur on \d+ x \d+ pixels costs about 25 times"):
        as_transform(A.Compose([A.Flip(), A.MedianBlur(p=1)]))(huge)


def test_normalize_before_floats_is_refused():
    normalize = A.Normalize(mean=[0.5] * 3, std=[0.25] * 3)
    with pytest.raises(TransformError, match=r"Normalize before ToDtype.*A\.ToDtype"):
        as_transform(A.Compose([A.CropOrPad(9, 9), normalize]))
    as_transform(A.Compose([A.CropOrPad(9, 9), A.ToDtype("float", scale=True), normalize]))


def test_hue_that_stops_at_red_is_refused_and_saturation_is_not():
    for limit in (10, (5, 15), 20):
        with pytest.raises(TransformError, match=r"clips the hue at red.*hue_shift_limit=0"):
            as_transform(A.HueSaturationValue(hue_shift_limit=limit))
    as_transform(A.HueSaturationValue(hue_shift_limit=0, sat_shift_limit=10))


def test_a_class_is_no_transform():
    with pytest.raises(TransformError, match=r"HorizontalFlip is a class. Make one of it: HorizontalFlip\(...\)"):
        as_transform(A.HorizontalFlip)
