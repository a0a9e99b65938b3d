import pandas as pd
import pytest
import pyvips
import torch

from wsidata.datasets.loader import make_loader
from wsidata.datasets.slides import SlideDataset
from wsidata.transforms.base import TransformError
from wsidata.transforms.compose import Compose
from wsidata.transforms.geometry.affine import RandomD4
from wsidata.transforms.geometry.crop import CropOrPad


@pytest.fixture
def dataset(camelyon):
    paths = sorted((camelyon / "images").glob("*_00[1-4].tif"))
    table = pd.DataFrame({"image_id": [p.stem for p in paths], "path": map(str, paths), "label": range(len(paths))})
    return SlideDataset(table, {"level": 1}, Compose([CropOrPad(64), RandomD4()]), fresh_epochs=True)


def epochs(loader, count=2):
    return [[(image.clone(), label.tolist()) for image, label in loader] for _ in range(count)]


def same(first, second):
    return len(first) == len(second) and all(
        torch.equal(a, b) and x == y for (a, x), (b, y) in zip(first, second, strict=True)
    )


@pytest.mark.slow
def test_workers_do_not_hang_after_libvips_ran_here_and_give_the_same_batches(dataset, camelyon):
    threaded = pyvips.Image.new_from_file(str(camelyon / "images" / "normal_001.tif"))
    assert threaded.avg() > 0
    torch.manual_seed(7)
    expected = epochs(make_loader(dataset, batch_size=3, shuffle=True))
    torch.manual_seed(7)
    loader = make_loader(dataset, batch_size=3, shuffle=True, num_workers=2)
    loader.timeout = 120  # a hanging worker fails this test instead of stopping the suite
    first, second = epochs(loader)
    assert same(first, expected[0])
    assert same(second, expected[1])
    assert all(image.is_contiguous(memory_format=torch.channels_last) for image, _ in first)


def test_each_epoch_has_an_order_and_augmentation_of_its_own(dataset):
    torch.manual_seed(7)
    first, second = epochs(make_loader(dataset, shuffle=True))
    order = [label for _, label in first]
    assert sorted(order) == [[i] for i in range(len(dataset))]
    assert order != [label for _, label in second]
    by_label = [{label[0]: image for image, label in epoch} for epoch in (first, second)]
    assert any(not torch.equal(by_label[0][i], by_label[1][i]) for i in range(len(dataset)))


def test_new_loader_goes_on_with_new_epochs(dataset):
    torch.manual_seed(7)
    assert not same(epochs(make_loader(dataset), 1)[0], epochs(make_loader(dataset), 1)[0])


def test_without_shuffle_the_tables_order_is_kept(dataset):
    assert [label for _, label in epochs(make_loader(dataset), 1)[0]] == [[i] for i in range(len(dataset))]


def test_failure_in_a_worker_names_the_slide(dataset):
    dataset.paths[1] = "/nowhere/slide.tif"
    loader = make_loader(dataset, num_workers=1)
    loader.timeout = 120
    with pytest.raises(RuntimeError, match=rf"slide '{dataset.image_ids[1]}' \(/nowhere/slide.tif\)"):
        list(loader)


def test_transform_that_cannot_be_sent_is_refused_before_a_worker_starts(camelyon, dataset):
    dataset.transform = Compose([lambda image: image])
    with pytest.raises(TransformError, match=r"cannot be sent to worker processes.*num_workers=0"):
        make_loader(dataset, num_workers=1)
