"""The two packages together: a streaming network trained on packed slides that are decoded row by row."""

import pytest
import torch
from lightning import Trainer, seed_everything

from streammodels import StreamingResNet
from wsidata import WSIDataModule


def trained(folder, out, **options):
    seed_everything(5, workers=True)
    dm = WSIDataModule(
        folder / "evaluation" / "reference.csv", folder / "images", test_prefix="test_", level=0, crop="pack",
        image_size=(320, 256), num_workers=0, batch_size=2, **options,
    )  # fmt: skip
    model = StreamingResNet("resnet18", tile_size=128, num_classes=2, weights=None, train_streaming_layers=True)
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False, "accelerator": "cpu"}
    Trainer(default_root_dir=out, max_epochs=1, limit_train_batches=2, limit_val_batches=1, **quiet).fit(model, dm)
    return model.state_dict()


@pytest.mark.slow
def test_training_on_lazy_images_is_training_on_their_pixels(camelyon, tmp_path):
    lazy, plain = (trained(camelyon, tmp_path / str(lazy), lazy=lazy) for lazy in (True, False))
    assert lazy.keys() == plain.keys()
    for name, value in lazy.items():
        torch.testing.assert_close(value, plain[name], rtol=1e-4, atol=1e-5, msg=name)
