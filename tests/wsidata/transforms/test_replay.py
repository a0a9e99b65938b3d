import json
import pickle
import subprocess
import sys

import albumentationsxl as A
import numpy as np
import pytest
import pyvips

from wsidata.synthetic.tissue import paint_tissue
from wsidata.transforms.adapters.functions import FunctionTransform
from wsidata.transforms.base import Sample, TransformError
from wsidata.transforms.color.stain import StainJitter
from wsidata.transforms.color.stain_normalize import ColorFit, MacenkoNormalize, ReinhardNormalize
from wsidata.transforms.color.tone import Blur, ToneJitter
from wsidata.transforms.compose import Compose, OneOf
from wsidata.transforms.geometry.affine import RandomAffine, RandomD4, RandomHorizontalFlip
from wsidata.transforms.geometry.crop import CropOrPad
from wsidata.transforms.geometry.dropout import CoarseDropout
from wsidata.transforms.geometry.elastic import Elastic
from wsidata.transforms.replay import Record

EVERYTHING = Compose(
    [
        CropOrPad((200, 260), position="random"),
        RandomD4(),
        RandomAffine(degrees=10, scale=(0.9, 1.1), shear_degrees=3, shift=0.02, p=0.8),
        Elastic(alpha_px=6, cell_px=32),
        MacenkoNormalize(on_blank="keep"),
        OneOf([StainJitter(), ReinhardNormalize(ColorFit((-1.0, 0.1, 0.02), (0.4, 0.05, 0.02)), on_blank="keep")]),
        ToneJitter(per_band=True),
        Blur(p=0.5),
        CoarseDropout(mask_fill=0),
        CropOrPad(230),
        RandomHorizontalFlip(),
    ]
)


def sample(dtype=np.uint8):
    generator = np.random.default_rng(0)
    pixels = paint_tissue(300, 240, tumor=True, mpp=0.5, rng=generator)
    pixels = pixels if dtype == np.uint8 else pixels.astype(np.uint16) * 257
    mask = generator.integers(0, 5, (240, 300), dtype=np.uint8)
    points = generator.uniform([0, 0], [300, 240], (7, 2))
    return Sample(pyvips.Image.new_from_array(pixels), (pyvips.Image.new_from_array(mask),), points)


def assert_same(first, second):
    np.testing.assert_array_equal(first.image.numpy(), second.image.numpy())
    for one, other in zip(first.masks, second.masks, strict=True):
        np.testing.assert_array_equal(one.numpy(), other.numpy())
    np.testing.assert_array_equal(first.points, second.points)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("seed", range(4))
def test_a_record_replays_every_transform_bit_by_bit(dtype, seed):
    changed = EVERYTHING.run(sample(dtype), np.random.default_rng(seed))
    text = Record.of(changed).to_json()
    again = Record.from_json(text).replay(sample(dtype))
    assert_same(changed, again)
    assert Record.of(again).to_json() == text
    assert changed.image.format == sample(dtype).image.format
    assert (changed.image.width, changed.image.height) == (230, 230)


@pytest.mark.slow
def test_all_operations_take_part_in_the_test_above():
    names = {
        operation.saved_name
        for seed in range(12)
        for operation in EVERYTHING.run(sample(), np.random.default_rng(seed)).operations
    }
    expected = "AffineMap DensityMap ElasticField GaussianBlur Holes ReinhardMap Symmetry ToneCurve Window"
    assert names == set(expected.split())


@pytest.mark.slow
def test_records_are_read_where_no_transform_was_imported():
    text = Record.of(EVERYTHING.run(sample(), np.random.default_rng(0))).to_json()
    code = f"from wsidata.transforms import Record; assert Record.from_json({text!r}).to_json() == {text!r}"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_pickled_transforms_and_samples_operations_are_the_same():
    copy = pickle.loads(pickle.dumps(EVERYTHING))
    changed = EVERYTHING.run(sample(), np.random.default_rng(3))
    assert_same(copy.run(sample(), np.random.default_rng(3)), changed)
    assert pickle.loads(pickle.dumps(changed.operations)) == changed.operations


def test_masks_and_points_do_not_change_what_is_drawn():
    alone = EVERYTHING(sample().image, np.random.default_rng(5))
    np.testing.assert_array_equal(EVERYTHING.run(sample(), np.random.default_rng(5)).image.numpy(), alone.numpy())


@pytest.mark.slow
def test_masks_keep_their_values():
    for seed in range(6):
        changed = EVERYTHING.run(sample(), np.random.default_rng(seed))
        assert set(np.unique(changed.masks[0].numpy())) <= set(range(5))


def brighter(image):
    return image.linear(1, [float(np.random.rand() * 20)]).cast("uchar")


def test_steps_that_are_not_ours_are_replayed_with_their_function():
    pipeline = A.Compose([A.Flip(p=0.8), A.Blur(p=0.5)])
    transform = Compose([RandomD4(), FunctionTransform(brighter), pipeline])
    image = sample().image
    for seed in range(4):
        changed = transform.run(Sample(image), np.random.default_rng(seed))
        record = Record.from_json(Record.of(changed).to_json())
        again = record.replay(Sample(image), foreign=[brighter, pipeline])
        np.testing.assert_array_equal(changed.image.numpy(), again.image.numpy())
    with pytest.raises(TransformError, match=r"a step that is not ours \(brighter\)"):
        record.replay(Sample(image))
    with pytest.raises(TransformError, match=r"'brighter' is not ours and can only be repeated by Record.replay"):
        record.operations[1].image(image)


def test_another_picture_is_refused():
    record = Record.of(EVERYTHING.run(sample(), np.random.default_rng(0)))
    with pytest.raises(TransformError, match=r"\(300, 240, 3, 'uchar'\), and this one is \(299, 240, 3, 'uchar'\)"):
        record.replay(Sample(sample().image.crop(0, 0, 299, 240)))
    with pytest.raises(TransformError, match="'ushort'"):
        record.replay(sample(np.uint16))


def test_record_of_nothing_is_empty():
    record = Record.of(Compose([]).run(sample()))
    assert record.operations == ()
    assert_same(Record.from_json(record.to_json()).replay(sample()), sample())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"version": 9}, "version 9"),
        ({"operations": [{"operation": "Explode"}]}, r"operation 'Explode' is not known. Known are .*Symmetry"),
        ({"operations": [{"operation": "Symmetry", "turns": 1}]}, r"described by \['mirrored', 'turns'\]"),
        ({"start": [1, 2]}, "no record of operations"),
    ],
)
def test_damaged_records_are_refused(change, words):
    content = json.loads(Record.of(EVERYTHING.run(sample(), np.random.default_rng(0))).to_json())
    with pytest.raises(TransformError, match=words):
        Record.from_json(json.dumps(content | change))
    with pytest.raises(TransformError, match="no record of operations"):
        Record.from_json("{}")
