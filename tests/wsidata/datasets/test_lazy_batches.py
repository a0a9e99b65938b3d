"""Lazy images through loaders, workers and a Trainer."""

import pytest
import torch
from lightning import LightningModule, Trainer, seed_everything

from wsidata import LazyImage, TissueCrop, WSIDataModule
from wsidata.datasets.slides import SampleError
from wsidata.transforms.base import TransformError


def module(folder, **options):
    options = {"test_prefix": "test_", "level": 0, "num_workers": 0, "batch_size": 2} | options
    return WSIDataModule(folder / "evaluation" / "reference.csv", folder / "images", **options)


class Reader(LightningModule):
    """Reads every image in strips, upwards, and notes what it was given."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen = []

    def training_step(self, batch, _):
        images, labels = batch
        assert isinstance(images, list)
        for image, label in zip(images, labels.tolist(), strict=True):
            assert isinstance(image, LazyImage)
            height = image.shape[1]
            total = sum(int(image.rows(y, min(y + 50, height)).sum()) for y in reversed(range(0, height, 50)))
            self.seen.append((image.name, label, image.shape, total))
        return self.weight * 1.0

    def validation_step(self, batch, _):
        self.log("rows", float(batch[0][0].rows(0, 1).sum()))

    def predict_step(self, batch, _):
        return [image.name for image in batch]

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def trained(folder, out, **options):
    seed_everything(3, workers=True)
    model = Reader()
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False, "accelerator": "cpu"}
    Trainer(default_root_dir=out, max_epochs=2, **quiet).fit(model, datamodule=module(folder, **options))
    return model.seen


@pytest.mark.slow
@pytest.mark.parametrize("crop", [None, "tissue", "pack"])
def test_lazy_batches_hold_the_pixels_of_ordinary_ones(camelyon, crop):
    options = {"batch_size": 1, "mpp": 1.3, "level": None, "crop": crop}
    lazy, plain = module(camelyon, lazy=True, **options), module(camelyon, **options)
    for dm in (lazy, plain):
        dm.setup("fit")
    torch.manual_seed(0)
    lazy_batches = list(lazy.train_dataloader())
    torch.manual_seed(0)
    for ((image,), labels), (images, plain_labels) in zip(lazy_batches, plain.train_dataloader(), strict=True):
        assert torch.equal(labels, plain_labels)
        assert torch.equal(image.rows(0, image.shape[1])[None], images)


@pytest.mark.slow
def test_a_trainer_sees_the_same_with_and_without_workers(camelyon, tmp_path):
    alone = trained(camelyon, tmp_path / "0", lazy=True, crop="pack")
    assert trained(camelyon, tmp_path / "1", lazy=True, crop="pack", num_workers=2) == alone
    first, second = alone[: len(alone) // 2], alone[len(alone) // 2 :]
    assert sorted(seen[:2] for seen in first) == sorted(seen[:2] for seen in second)
    assert first != second


@pytest.mark.slow
def test_images_of_a_batch_may_differ_in_size_and_are_padded_if_asked(camelyon):
    dm = module(camelyon, lazy=True, predict_on="all", batch_size=16)
    dm.setup("predict")
    (images,) = dm.predict_dataloader()
    assert len({image.shape for image in images}) > 1
    assert [image.name for image in images] == [f"{name}.tif" for name in dm.tables["predict"]["image_id"]]
    padded = module(camelyon, lazy=True, image_size=(500, 450))
    padded.setup("fit")
    images, _ = next(iter(padded.val_dataloader()))
    assert {image.shape for image in images} == {(3, 500, 450)}


@pytest.mark.slow
def test_float_pixels(camelyon):
    dm = module(camelyon, lazy=True, dtype="float")
    dm.setup("fit")
    image = next(iter(dm.val_dataloader()))[0][0]
    assert image.dtype == torch.float32
    assert image.rows(0, 5).max() <= 1


@pytest.mark.slow
def test_tissue_is_looked_for_once_a_slide(camelyon):
    dm = module(camelyon, crop="pack", image_size=256)
    dm.setup("fit")
    dataset = dm.datasets["train"]
    packing = dataset.packing(0)
    dataset[0]
    assert dataset.packing(0) is packing
    assert packing.width * packing.height < packing.source_width * packing.source_height


def test_batch_is_looked_at_as_thumbnails(camelyon):
    figure = module(camelyon, lazy=True, crop="tissue").show_batch(max_images=2)
    assert len(figure.axes) >= 2


def ends_in_an_array(image):
    return image.numpy()


def test_what_cannot_be_read_lazily_is_refused_by_name(camelyon):
    dm = module(camelyon, lazy=True, train_transform=ends_in_an_array)
    dm.setup("fit")
    with pytest.raises(SampleError, match=r"slide '\w+_\d+'.*ends in a ndarray.*ToTensor"):
        next(iter(dm.train_dataloader()))


def test_crops_that_cannot_be_batched_are_refused_at_once(camelyon):
    with pytest.raises(ValueError, match=r"batch_size=2 needs images of one size.*lazy=True"):
        module(camelyon, crop="tissue")


def test_method_that_workers_cannot_be_sent_is_refused(camelyon):
    crop = TissueCrop("tissue", method=lambda pixels: pixels[..., 0] > 5)
    dm = module(camelyon, lazy=True, crop=crop, num_workers=1)
    dm.setup("fit")
    with pytest.raises(TransformError, match="cannot be sent to worker processes"):
        dm.train_dataloader()
