import pickle

import numpy as np
import pandas as pd
import pytest
import torch

from wsidata.datasets.loader import collate
from wsidata.datasets.slides import SampleError, SlideDataset
from wsidata.synthetic.slides import write_slide
from wsidata.transforms.compose import default_train_transform, he_train_transform
from wsidata.transforms.geometry.affine import RandomD4
from wsidata.transforms.geometry.crop import CropOrPad
from wsidata.transforms.geometry.elastic import Elastic


@pytest.fixture(scope="module")
def table(camelyon):
    paths = sorted((camelyon / "images").glob("normal_*.tif"))
    return pd.DataFrame({"image_id": [p.stem for p in paths], "path": map(str, paths), "label": range(len(paths))})


def identity(image):
    return image


def arrays_at_the_end(image):
    return image.numpy()


def test_sample_is_the_slides_pixels_and_its_label(table):
    from wsidata.slides.slide import Slide

    image, label = SlideDataset(table, {"level": 1}, identity)[2]
    assert label == 2
    expected = Slide(table["path"][2]).image(level=1).numpy()
    np.testing.assert_array_equal(image.permute(1, 2, 0).numpy(), expected)
    assert image.stride() == (1, 3 * image.shape[2], 3)


def test_float_and_images_alone(table):
    integers = SlideDataset(table, {"level": 1}, CropOrPad(32), with_labels=False)[0]
    floats = SlideDataset(table, {"level": 1}, CropOrPad(32), with_labels=False, dtype="float")[0]
    assert integers.dtype == torch.uint8
    assert torch.equal(floats, integers / 255)


@pytest.mark.parametrize("dtype", ["uint8", "float"])
def test_a_loader_gets_samples_in_the_memory_of_their_batch(table, dtype):
    dataset = SlideDataset(table[:2], {"level": 1}, default_train_transform(40), dtype=dtype, with_labels=False)
    samples = dataset.__getitems__([0, 1])
    batch = collate(samples)
    assert batch.data_ptr() == samples[0].data_ptr()
    assert torch.equal(batch, torch.stack([dataset[0], dataset[1]]))


def test_smaller_slides_are_padded_white(table):
    image, _ = SlideDataset(table, {"level": 1}, CropOrPad(600))[0]
    assert image.shape == (3, 600, 600)
    assert (image[:, 0, :] == 255).all()


@pytest.mark.slow
@pytest.mark.parametrize("resolution", [{"level": 0}, {"downsample": 1.7}])
@pytest.mark.parametrize("crop", [None, "tissue", "pack"])
@pytest.mark.parametrize("transform", [CropOrPad(200), he_train_transform(200), Elastic(), arrays_at_the_end])
def test_what_is_not_decoded_ahead_has_the_same_pixels(table, resolution, crop, transform, monkeypatch):
    expected = samples(SlideDataset(table[:2], resolution, transform, crop=crop))
    monkeypatch.setattr("wsidata.slides.slide.DECODED_AT_ONCE_BYTES", 0)
    monkeypatch.setattr("wsidata.formats.tiff.reader.DECODED_AT_ONCE_BYTES", 0)
    assert samples(SlideDataset(table[:2], resolution, transform, crop=crop)) == expected
    monkeypatch.setattr("wsidata.slides.slide.Slide.regions", lambda *_, **__: None)
    assert samples(SlideDataset(table[:2], resolution, transform, crop=crop)) == expected


def samples(dataset):
    return [image.contiguous().numpy().tobytes() for image, _ in (dataset[i] for i in range(len(dataset)))]


def test_augmentation_changes_with_epoch_and_row_and_returns_with_the_seed(table):
    dataset = SlideDataset(table, {"level": 2}, RandomD4(), fresh_epochs=True)
    torch.manual_seed(1)
    epochs = []
    for _ in range(3):
        dataset.begin_epoch()
        epochs.append(samples(dataset))
    torch.manual_seed(1)
    dataset.begin_epoch()
    assert samples(dataset) == epochs[0] == samples(dataset)
    assert epochs[0] != epochs[1] != epochs[2]
    draws = {dataset.generator(i).integers(2**62) for i in range(len(dataset))}
    assert len(draws) == len(dataset)


def test_evaluation_samples_never_change(table):
    dataset = SlideDataset(table, {"level": 2}, RandomD4())
    first = samples(dataset)
    dataset.begin_epoch()
    assert samples(dataset) == first


def test_known_epoch_gives_the_same_number_whatever_was_drawn_before(table):
    dataset = SlideDataset(table, {"level": 2}, RandomD4(), fresh_epochs=True)
    seeds = []
    for seed, epoch in ((1, 4), (1, 4), (1, 5), (2, 4)):
        torch.rand(len(seeds) + 1)
        dataset.epoch_source = lambda seed=seed, epoch=epoch: (seed, epoch)
        dataset.begin_epoch()
        seeds.append(dataset.epoch_seed)
    assert seeds[0] == seeds[1]
    assert len(set(seeds)) == 3


def test_row_drawn_again_in_an_epoch_is_augmented_anew(table):
    dataset = SlideDataset(table, {"level": 2}, RandomD4(), fresh_epochs=True)
    dataset.begin_epoch()
    again = [dataset[turn * len(dataset)] for turn in range(8)]
    assert len({image.numpy().tobytes() for image, _ in again}) > 1
    assert {label for _, label in again} == {dataset.labels[0]}


def test_pickled_dataset_makes_the_same_samples(table):
    dataset = SlideDataset(table, {"level": 2}, RandomD4(), fresh_epochs=True)
    dataset.epoch_source = lambda: (1, 3)
    dataset.begin_epoch()
    assert samples(pickle.loads(pickle.dumps(dataset))) == samples(dataset)


def test_failing_sample_names_its_slide(table, tmp_path):
    def explode(image):
        raise KeyError("stain")

    with pytest.raises(SampleError, match=r"slide 'normal_002' \(.*normal_002.tif\): KeyError: 'stain'"):
        SlideDataset(table, {"level": 1}, explode)[1]
    path = write_slide(tmp_path / "gone.tif", width=128, height=128, tile=64)
    dataset = SlideDataset(pd.DataFrame({"image_id": ["gone"], "path": [path], "label": [0]}), {"level": 0}, identity)
    path.unlink()
    with pytest.raises(SampleError, match=r"slide 'gone'.*does not exist"):
        dataset[0]
