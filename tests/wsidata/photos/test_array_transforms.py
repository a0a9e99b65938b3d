import numpy as np
import pytest
import pyvips
from hypothesis import given, settings
from hypothesis import strategies as st

from wsidata.photos.array_transforms import moves_only, run_on_array
from wsidata.transform_base import Sample
from wsidata.transforms import (
    Compose,
    CropOrPad,
    OneOf,
    RandomD4,
    RandomHorizontalFlip,
    RandomRotate90,
    RandomVerticalFlip,
    StainJitter,
)

SIDES = st.integers(1, 40)
MOVES = st.one_of(
    st.builds(
        CropOrPad,
        st.tuples(SIDES, SIDES),
        fill=st.sampled_from([None, 0, 77]),
        position=st.sampled_from(["centre", "random"]),
    ),
    st.builds(RandomHorizontalFlip, st.sampled_from([0.0, 0.5, 1.0])),
    st.builds(RandomVerticalFlip, st.sampled_from([0.5, 1.0])),
    st.just(RandomD4()),
    st.just(RandomRotate90()),
)


@settings(deadline=None, max_examples=60)
@given(moves=st.lists(MOVES, max_size=4), height=SIDES, width=SIDES, seed=st.integers(0, 2**32))
def test_arrays_are_moved_as_libvips_moves_pictures(moves, height, width, seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    before = pixels.copy()
    transform = Compose([Compose(moves), *moves])
    picture = pyvips.Image.new_from_array(pixels, interpretation="srgb")
    expected = transform.run(Sample(picture), np.random.default_rng([seed, 1])).image.numpy()
    assert moves_only(transform)
    np.testing.assert_array_equal(run_on_array(transform, pixels, np.random.default_rng([seed, 1])), expected)
    np.testing.assert_array_equal(pixels, before)


class MovesFurther(CropOrPad):
    def draw(self, image, rng):
        rng.random()
        return super().draw(image, rng)


@pytest.mark.parametrize(
    "transform", [StainJitter(), OneOf([RandomD4()]), MovesFurther(4), Compose([RandomD4(), StainJitter()])]
)
def test_others_are_left_to_libvips(transform):
    assert not moves_only(transform)
