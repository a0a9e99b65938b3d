import pickle

import numpy as np
import pandas as pd
import pytest
import torch

from wsidata.datasets.loader import collate, make_loader
from wsidata.datasets.photos import PhotoDataset, normalized
from wsidata.datasets.slides import SampleError
from wsidata.photos.cache import DecodedCache
from wsidata.photos.read import read_photo
from wsidata.transforms.color.stain import StainJitter
from wsidata.transforms.compose import Compose, auto_resize_px, default_eval_transform, photo_train_transform
from wsidata.transforms.geometry.affine import RandomHorizontalFlip
from wsidata.transforms.geometry.crop import CropOrPad


@pytest.fixture(scope="module")
def table(toadstools):
    paths = sorted((toadstools / "photos").iterdir())[:9]
    return pd.DataFrame({"image_id": [p.stem for p in paths], "path": map(str, paths), "label": range(len(paths))})


@pytest.mark.slow
def test_sample_is_the_center_of_the_resized_photo_and_its_label(table):
    image, label = PhotoDataset(table, default_eval_transform((40, 48)), resize_px=56)[2]
    pixels = read_photo(table["path"][2], short_side_px=56)
    top, left = (pixels.shape[0] - 40) // 2, (pixels.shape[1] - 48) // 2
    np.testing.assert_array_equal(image.permute(1, 2, 0).numpy(), pixels[top : top + 40, left : left + 48])
    assert label == 2
    assert image.stride() == (1, 3 * 48, 3)


def test_transforms_on_arrays_and_on_libvips_give_one_sample(table):
    fast = PhotoDataset(table, photo_train_transform((40, 40)), resize_px=56, fresh_epochs=True)
    slow = PhotoDataset(table, Compose([photo_train_transform((40, 40)), StainJitter(p=0.0)]), resize_px=56)
    slow._epoch_seed = fast._epoch_seed
    fast.begin_epoch()
    for row in range(len(table)):
        assert torch.equal(fast.image(row), slow.image(row))


def test_smaller_photos_are_padded_white(table):
    image, _ = PhotoDataset(table, default_eval_transform((300, 300)))[0]
    assert image.shape == (3, 300, 300)
    assert (image[:, 0] == 255).all()


def samples(dataset):
    return [image.contiguous().numpy().tobytes() for image, _ in (dataset[i] for i in range(len(dataset)))]


def test_augmentation_changes_with_epoch_and_row_and_returns_with_the_seed(table):
    dataset = PhotoDataset(table, photo_train_transform((32, 32)), resize_px=64, fresh_epochs=True)
    torch.manual_seed(1)
    epochs = []
    for _ in range(3):
        dataset.begin_epoch()
        epochs.append(samples(dataset))
    torch.manual_seed(1)
    dataset.begin_epoch()
    assert samples(dataset) == epochs[0] == samples(pickle.loads(pickle.dumps(dataset)))
    assert epochs[0] != epochs[1] != epochs[2]
    again = {dataset[turn * len(dataset)][0].numpy().tobytes() for turn in range(8)}
    assert len(again) > 1


@pytest.mark.parametrize("where", ["memory", "folder"])
def test_cached_photos_give_the_same_samples_and_are_never_written_to(table, tmp_path, where):
    plain = PhotoDataset(table, photo_train_transform((32, 32)), resize_px=64)
    cache = DecodedCache(10**8 if where == "memory" else tmp_path)
    cached = PhotoDataset(table, photo_train_transform((32, 32)), resize_px=64, cache=cache)
    expected = samples(plain)
    assert samples(cached) == expected
    for image, _ in (cached[row] for row in range(len(table))):
        image.zero_()  # what a training step does in place must not reach the cache
    assert samples(cached) == expected == samples(pickle.loads(pickle.dumps(cached)))


def test_whole_photo_from_the_cache_is_not_the_caches_memory(table):
    dataset = PhotoDataset(table, Compose([]), cache=DecodedCache(10**8), with_labels=False)
    before = dataset[0].clone()
    dataset[0].zero_()
    assert torch.equal(dataset[0], before)


def test_normalization_is_per_channel_and_keeps_the_layout(table):
    dataset = PhotoDataset(table, default_eval_transform((32, 32)), resize_px=40, dtype="float")
    plain, _ = dataset[0]
    dataset.normalization = ((0.1, 0.2, 0.3), (0.5, 0.25, 1.0))
    image, _ = dataset[0]
    expected = (plain.double() - torch.tensor([0.1, 0.2, 0.3])[:, None, None].double()) / torch.tensor(
        [0.5, 0.25, 1.0]
    )[:, None, None].double()
    torch.testing.assert_close(image.double(), expected, atol=1e-6, rtol=0)
    assert image.stride() == plain.stride()
    assert torch.equal(dataset.image(0), plain)
    as_bytes = (plain * 255).round().to(torch.uint8)
    for one in (plain, as_bytes):
        torch.testing.assert_close(normalized(one, ((0.0,) * 3, (1.0,) * 3)), plain)


def test_failing_sample_names_its_photo(table, tmp_path):
    path = tmp_path / "bad.jpg"
    path.write_bytes(b"\xff\xd8\xff")
    rows = pd.DataFrame({"image_id": ["bad"], "path": [str(path)], "label": [0]})
    with pytest.raises(SampleError, match=r"photo 'bad' \(.*bad.jpg\): UnreadableImageError"):
        PhotoDataset(rows, RandomHorizontalFlip())[0]


def test_targets_of_several_labels(table):
    rows = table.assign(target=[(0.0, 1.0)] * len(table))
    _, target = PhotoDataset(rows, CropOrPad(16))[0]
    assert target.tolist() == [0.0, 1.0]
    assert PhotoDataset(rows, CropOrPad(16), with_labels=False)[0].shape == (3, 16, 16)


def test_resize_leaves_an_eighth_around_the_crop():
    assert [auto_resize_px(size) for size in ((224, 224), (100, 300), None)] == [256, 343, None]


@pytest.mark.parametrize("dtype", ["uint8", "float"])
@pytest.mark.parametrize("normalization", [None, ((0.1, 0.2, 0.3), (0.5, 0.25, 1.0))])
def test_a_loader_gets_samples_in_the_memory_of_their_batch(table, dtype, normalization):
    rows = pd.concat([table.iloc[:3], table.iloc[:1]])
    dataset = PhotoDataset(rows, photo_train_transform((48, 40)), resize_px=56, dtype=dtype)
    dataset.normalization = normalization
    (images, labels), rest = make_loader(dataset, batch_size=3)
    alone = [dataset[row][0] for row in range(4)]
    assert torch.equal(images, torch.stack(alone[:3]))
    assert torch.equal(rest[0], alone[3][None])
    assert labels.tolist() == [0, 1, 2]
    samples = dataset.__getitems__([0, 1, 2])
    assert collate(samples)[0].data_ptr() == samples[0][0].data_ptr()
