import numpy as np
import pytest
import pyvips
import torch

from wsidata.datasets.loader import BatchError, collate, stack_images
from wsidata.transforms.base import TransformError
from wsidata.transforms.to_tensor import to_tensor

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)
EXPECTED = torch.tensor(PIXELS).permute(2, 0, 1)


@pytest.mark.parametrize(
    "picture",
    [pyvips.Image.new_from_array(PIXELS), PIXELS, PIXELS[::-1][::-1], PIXELS[:, ::-1].copy()[:, ::-1], EXPECTED],
    ids=["pyvips", "array", "array-twice-flipped", "negative-stride", "tensor"],
)
def test_every_kind_of_picture_becomes_the_same_tensor(picture):
    assert torch.equal(to_tensor(picture), EXPECTED)
    assert to_tensor(picture).dtype == torch.uint8


def test_tensor_is_a_view_of_rows_of_pixels():
    tensor = to_tensor(PIXELS.copy())
    assert tensor.shape == (3, 6, 9)
    assert tensor.stride() == (1, 27, 3)


def test_read_only_arrays_are_copied():
    frozen = PIXELS.copy()
    frozen.flags.writeable = False
    to_tensor(frozen)[0, 0, 0] = 99
    assert frozen[0, 0, 0] == PIXELS[0, 0, 0]


def test_float_is_exactly_divided_by_255_and_stays_a_view():
    tensor = to_tensor(PIXELS, "float")
    assert torch.equal(tensor, EXPECTED / 255)
    assert tensor.stride() == (1, 27, 3)


@pytest.mark.parametrize("dtype", ["uint8", "float"])
def test_floats_stay_floats(dtype):
    floats = PIXELS.astype(np.float64) / 255
    tensor = to_tensor(floats, dtype)
    assert tensor.dtype == torch.float32
    torch.testing.assert_close(tensor, EXPECTED / 255)


def test_16_bit_pixels_become_floats_if_asked_and_are_refused_as_bytes():
    pixels = np.array([[[0, 65535, 13107]]], dtype=np.uint16)
    for picture in (pixels, pyvips.Image.new_from_array(pixels)):
        tensor = to_tensor(picture, "float")
        assert tensor.dtype == torch.float32
        assert tensor.flatten().tolist() == [0.0, 1.0, pytest.approx(0.2)]
        with pytest.raises(TransformError, match=r"uint16.*with dtype='float' of uint16"):
            to_tensor(picture)


def test_grey_has_one_channel():
    assert to_tensor(pyvips.Image.black(4, 5)).shape == (1, 5, 4)


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        (PIXELS[..., 0], r"an array of shape \(6, 9\)"),
        (PIXELS.astype(np.uint16), "type uint16"),
        (EXPECTED[0], r"a tensor of shape \(6, 9\)"),
        (EXPECTED.long(), "type torch.int64"),
        ({"image": PIXELS}, "gave a dict; it must give a pyvips image"),
        (None, "gave a NoneType"),
    ],
)
def test_what_is_no_picture_is_refused(picture, message):
    with pytest.raises(TransformError, match=message):
        to_tensor(picture)


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("contiguous", [False, True])
def test_batches_are_channels_last(count, contiguous):
    image = EXPECTED.contiguous() if contiguous else EXPECTED
    batch, labels = collate([(image, 1)] * count)
    assert batch.shape == (count, 3, 6, 9)
    assert batch.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(batch, torch.stack([EXPECTED] * count))
    assert labels.tolist() == [1] * count
    assert labels.dtype == torch.int64


def test_images_without_labels_are_a_batch_too():
    assert torch.equal(collate([EXPECTED, EXPECTED]), torch.stack([EXPECTED] * 2))


def test_sizes_that_differ_are_refused():
    with pytest.raises(BatchError, match=r"\(3, 6, 8\), \(3, 6, 9\).*Pass image_size=.*batch_size=1"):
        stack_images([EXPECTED, EXPECTED[:, :, 1:]])
