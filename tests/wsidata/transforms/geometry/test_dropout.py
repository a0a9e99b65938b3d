import numpy as np
import pytest
import pyvips

from wsidata.transforms.base import Sample, TransformError
from wsidata.transforms.geometry.dropout import CoarseDropout, Holes

vips = pyvips.Image.new_from_array


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("fill", [None, 0, 100])
def test_holes_are_filled_and_nothing_else_changes(dtype, fill):
    pixels = np.random.default_rng(0).integers(0, 200, (50, 60, 3)).astype(dtype)
    transform = CoarseDropout(count=(2, 5), size_px=(3, 20), fill=fill, mask_fill=9)
    sample = Sample(vips(pixels), (vips(pixels[:, :, 0]),))
    for seed in range(10):
        changed = transform.run(sample, np.random.default_rng(seed))
        (holes,) = changed.operations
        assert isinstance(holes, Holes)
        assert 2 <= len(holes.boxes) <= 5
        picture, mask = pixels.copy(), pixels[:, :, 0].copy()
        for left, top, width, height in holes.boxes:
            assert 0 <= left <= left + width <= 60
            assert 0 <= top <= top + height <= 50
            assert {width, height} <= set(range(3, 21))
            picture[top : top + height, left : left + width] = np.iinfo(dtype).max if fill is None else fill
            mask[top : top + height, left : left + width] = 9
        np.testing.assert_array_equal(changed.image.numpy(), picture)
        np.testing.assert_array_equal(changed.masks[0].numpy(), mask)


def test_masks_are_left_alone_unless_asked_and_holes_fit_small_pictures():
    pixels = np.random.default_rng(0).integers(0, 200, (5, 6)).astype(np.uint8)
    changed = CoarseDropout((1, 1), (40, 50)).run(Sample(vips(pixels), (vips(pixels),)), np.random.default_rng(0))
    assert (changed.image.numpy() == 255).all()
    np.testing.assert_array_equal(changed.masks[0].numpy(), pixels)


@pytest.mark.parametrize("options", [{"count": (0, 2)}, {"count": (3, 2)}, {"count": (1, 65)}, {"size_px": (0, 4)}])
def test_ranges_are_checked(options):
    with pytest.raises(TransformError, match="must be a range of whole numbers from 1"):
        CoarseDropout(**options)
