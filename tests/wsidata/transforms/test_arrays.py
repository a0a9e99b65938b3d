import numpy as np
import pytest
import pyvips
from hypothesis import given, settings
from hypothesis import strategies as st

from wsidata.transforms.arrays import run_on_array, runs_on_arrays
from wsidata.transforms.base import Sample
from wsidata.transforms.color.stain import StainJitter
from wsidata.transforms.color.tone import ToneJitter
from wsidata.transforms.compose import Compose, OneOf
from wsidata.transforms.geometry.affine import RandomD4, RandomHorizontalFlip, RandomRotate90, RandomVerticalFlip
from wsidata.transforms.geometry.crop import CropOrPad, RandomResizedCrop

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
    st.builds(ToneJitter, st.just(0.2), st.just(0.3), st.just(0.2), st.booleans(), st.sampled_from([0.5, 1.0])),
)


@settings(deadline=None, max_examples=60)
@given(moves=st.lists(MOVES, max_size=4), height=SIDES, width=SIDES, seed=st.integers(0, 2**32))
def test_arrays_are_moved_as_libvips_moves_pictures(moves, height, width, seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    before = pixels.copy()
    transform = Compose([Compose(moves), *moves])
    picture = pyvips.Image.new_from_array(pixels, interpretation="srgb")
    expected = transform.run(Sample(picture), np.random.default_rng([seed, 1])).image.numpy()
    assert runs_on_arrays(transform)
    np.testing.assert_array_equal(run_on_array(transform, pixels, np.random.default_rng([seed, 1])), expected)
    np.testing.assert_array_equal(pixels, before)


def test_resized_crops_differ_from_those_of_libvips_by_rounding():
    rows, columns = np.mgrid[:90, :120]
    pixels = np.stack([2 * rows, 2 * columns, rows + columns], axis=-1).astype(np.uint8)
    transform = Compose([RandomResizedCrop((50, 60), area=(0.2, 1.0)), RandomHorizontalFlip()])
    assert runs_on_arrays(transform)
    for seed in range(20):
        picture = pyvips.Image.new_from_array(pixels, interpretation="srgb")
        expected = transform.run(Sample(picture), np.random.default_rng(seed)).image.numpy()
        found = run_on_array(transform, pixels, np.random.default_rng(seed))
        assert found.shape == (50, 60, 3)
        assert np.abs(found.astype(int) - expected)[3:-3, 3:-3].max() <= 2


class MovesFurther(CropOrPad):
    def draw(self, image, rng):
        rng.random()
        return super().draw(image, rng)


@pytest.mark.parametrize(
    "transform", [StainJitter(), OneOf([RandomD4()]), MovesFurther(4), Compose([RandomD4(), StainJitter()])]
)
def test_others_are_left_to_libvips(transform):
    assert not runs_on_arrays(transform)
