import numpy as np
import pandas as pd
import pytest
import pyvips
import torch

from wsidata.datasets.loader import make_loader
from wsidata.datasets.slides import SlideDataset
from wsidata.transforms.base import TransformError
from wsidata.transforms.compose import (
    Compose,
    OneOf,
    default_eval_transform,
    default_train_transform,
    he_train_transform,
)
from wsidata.transforms.geometry.affine import RandomD4, RandomHorizontalFlip, RandomRotate90, RandomVerticalFlip, rot90
from wsidata.transforms.geometry.crop import CropOrPad


def picture(height=5, width=7, dtype=np.uint8):
    pixels = np.arange(height * width * 3).reshape(height, width, 3)
    return pyvips.Image.new_from_array(pixels.astype(dtype), interpretation="srgb"), pixels.astype(dtype)


def rng(seed=0):
    return np.random.default_rng(seed)


@pytest.mark.parametrize("turns", range(-1, 5))
def test_rot90_is_numpys(turns):
    image, pixels = picture()
    np.testing.assert_array_equal(rot90(image, turns).numpy(), np.rot90(pixels, turns))


def symmetries(pixels):
    return {np.rot90(p, k).tobytes() + bytes(np.rot90(p, k).shape) for k in range(4) for p in (pixels, pixels[:, ::-1])}


def results(transform, image, count=200):
    generator = rng()
    arrays = [np.ascontiguousarray(transform(image, generator).numpy()) for _ in range(count)]
    return [array.tobytes() + bytes(array.shape) for array in arrays]


def test_d4_gives_the_eight_symmetries_alike_often():
    image, pixels = picture()
    got = results(RandomD4(), image, 400)
    assert set(got) == symmetries(pixels)
    assert min(got.count(symmetry) for symmetry in set(got)) > 25


@pytest.mark.slow
def test_turns_and_flips_give_what_they_say():
    image, pixels = picture()
    for transform, expected in (
        (RandomRotate90(), [np.rot90(pixels, k) for k in range(4)]),
        (RandomHorizontalFlip(), [pixels, pixels[:, ::-1]]),
        (RandomVerticalFlip(), [pixels, pixels[::-1]]),
        (RandomHorizontalFlip(p=1), [pixels[:, ::-1]]),
        (RandomVerticalFlip(p=0), [pixels]),
    ):
        assert set(results(transform, image)) == {np.ascontiguousarray(e).tobytes() + bytes(e.shape) for e in expected}


@pytest.mark.parametrize(("height", "width"), [(5, 7), (4, 4), (9, 3), (3, 10), (12, 12), (5, 8)])
def test_crop_or_pad_is_centred_and_white(height, width):
    image, pixels = picture()
    result = CropOrPad((height, width))(image).numpy()
    assert result.shape == (height, width, 3)
    canvas = np.full((height + 40, width + 40, 3), 255, np.uint8)
    top, left = (int((new - old) / 2) + 20 for new, old in ((height, 5), (width, 7)))
    canvas[top : top + 5, left : left + 7] = pixels
    np.testing.assert_array_equal(result, canvas[20:-20, 20:-20])


def test_crop_or_pad_agrees_with_albumentationsxl():
    A = pytest.importorskip("albumentationsxl")  # noqa: N806 - the name its users know
    image, _ = picture(31, 18)
    for size in ((64, 64), (20, 30), (7, 8), (40, 5)):
        expected = A.CropOrPad(*size)(image=image)["image"].numpy()
        np.testing.assert_array_equal(CropOrPad(size)(image).numpy(), expected)


@pytest.mark.parametrize(
    ("dtype", "white"), [(np.uint8, 255), (np.uint16, 65535), (np.float32, 1.0), (np.float64, 1.0)]
)
def test_white_is_the_white_of_the_number_format(dtype, white):
    image, _ = picture(dtype=dtype)
    assert CropOrPad(9)(image).numpy()[0, 0].tolist() == [white] * 3
    assert CropOrPad(9, fill=0)(image).numpy()[0, 0].tolist() == [0] * 3


def test_unknown_white_is_refused():
    with pytest.raises(TransformError, match=r"white is not known for a 'int' image. Pass fill="):
        CropOrPad(9)(picture(dtype=np.int32)[0])


@pytest.mark.parametrize("size", [0, -3, (4,), (4, 0), 2.5, (4, 4.0), "4"])
def test_sizes_that_are_no_sizes_are_refused(size):
    with pytest.raises(TransformError, match="image size"):
        CropOrPad(size)


def test_probability_is_checked():
    with pytest.raises(TransformError, match="p=50"):
        RandomHorizontalFlip(p=50)


@pytest.mark.slow
def test_compose_draws_everything_from_one_generator():
    image, _ = picture()
    transform = Compose([RandomD4(), RandomHorizontalFlip(), CropOrPad(6)])
    assert results(transform, image) == results(transform, image)
    assert len(set(results(transform, image))) == 8


def test_without_generator_torchs_seed_governs():
    image, _ = picture()
    torch.manual_seed(5)
    first = [RandomD4()(image).numpy().tolist() for _ in range(6)]
    torch.manual_seed(5)
    assert [RandomD4()(image).numpy().tolist() for _ in range(6)] == first
    assert any(result != first[0] for result in first)


def test_step_after_a_tensor_is_refused():
    def to_array(image):
        return image.numpy()

    with pytest.raises(TransformError, match=r"CropOrPad needs a pyvips image and got ndarray.*must come last"):
        Compose([to_array, CropOrPad(4)])(picture()[0])


@pytest.mark.slow
@pytest.mark.parametrize("size", [6, (4, 9), None])
def test_defaults_give_the_size_asked_for(size):
    image, pixels = picture()
    train, evaluation = default_train_transform(size), default_eval_transform(size)
    if size is None:
        assert set(results(train, image)) == symmetries(pixels)
        np.testing.assert_array_equal(evaluation(image).numpy(), pixels)
        return
    shape = ((6, 6) if size == 6 else size) + (3,)
    assert {train(image, rng(seed)).numpy().shape for seed in range(20)} == {shape}
    assert evaluation(image).numpy().shape == shape
    assert len(set(results(train, image))) == 8


def test_transforms_are_lazy():
    huge = pyvips.Image.black(200_000, 200_000, bands=3).copy(interpretation="srgb")
    assert default_train_transform(16)(huge, rng()).numpy().shape == (16, 16, 3)


def test_repr_says_what_it_does():
    expected = "Compose(transforms=[CropOrPad(height_px=4, width_px=4, fill=None, mask_fill=None, position='centre')])"
    assert repr(Compose([CropOrPad(4)])) == expected


def test_one_of_chooses_each_alike_often_or_none():
    image, pixels = picture()
    both = OneOf([RandomHorizontalFlip(p=1), RandomVerticalFlip(p=1)], p=0.5)
    got = results(both, image, 400)
    flips = [np.ascontiguousarray(one).tobytes() + bytes(one.shape) for one in (pixels, pixels[:, ::-1], pixels[::-1])]
    assert set(got) == set(flips)
    assert 150 < got.count(flips[0]) < 250
    assert min(got.count(flips[1]), got.count(flips[2])) > 60
    with pytest.raises(TransformError, match="at least one transform"):
        OneOf([])


@pytest.mark.slow
def test_number_of_workers_does_not_change_the_augmentation(camelyon):
    paths = sorted((camelyon / "images").glob("*_00[1-4].tif"))
    table = pd.DataFrame({"image_id": [p.stem for p in paths], "path": map(str, paths), "label": range(len(paths))})
    dataset = SlideDataset(table, {"level": 1}, he_train_transform(64), fresh_epochs=True)
    epochs = {}
    for workers in (0, 1, 4):
        torch.manual_seed(7)
        loader = make_loader(dataset, batch_size=3, shuffle=True, num_workers=workers)
        loader.timeout = 120 if workers else 0
        epochs[workers] = [torch.cat([images for images, _ in loader]) for _ in range(2)]
    for workers in (1, 4):
        for first, other in zip(epochs[0], epochs[workers], strict=True):
            assert torch.equal(first, other)
    assert not torch.equal(*epochs[0])
