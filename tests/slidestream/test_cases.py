"""Training on cases, of which one slide shows what the label of all says."""

import numpy as np
import pandas as pd
import pytest
import tifffile
import torch
from lightning import Trainer, seed_everything
from torch import nn

from slidestream.predicting import predict
from streammodels import StreamingClassifier
from wsidata import WSIDataModule
from wsidata.evaluation import auroc, read_predictions
from wsidata.splits.leaks import LeakWarning


class CaseNetwork(StreamingClassifier):
    """Looks for a color anywhere in a case."""

    def __init__(self):
        trunk = nn.Sequential(nn.Conv2d(3, 4, 1), nn.AdaptiveMaxPool2d(1))
        super().__init__(trunk, nn.Linear(4, 2), tile_size=16, optimizer=lambda own: torch.optim.Adam(own, lr=0.1))


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A folder of slides, and a table: of the 1 to 3 slides of a tumor case one has a purple patch."""
    folder, rng = tmp_path_factory.mktemp("study"), np.random.default_rng(0)
    rows = []
    for case in range(24):
        slides, label = 1 + case % 3, ("normal", "tumor")[int(rng.random() < 0.5)]
        shows = rng.integers(slides)
        for number in range(slides):
            pixels = rng.integers(180, 256, (24 + 8 * number, 32, 3), np.uint8)
            if label == "tumor" and number == shows:
                top, left = rng.integers(0, len(pixels) - 6), rng.integers(0, 26)
                pixels[top : top + 6, left : left + 6] = 120, 0, 120
            tifffile.imwrite(folder / f"{case}_{number}.tif", pixels, photometric="rgb", tile=(16, 16))
            rows.append((f"{case}_{number}", label, f"case {case}"))
    pd.DataFrame(rows, columns=["image", "class", "patient"]).to_csv(folder / "cases.csv", index=False)
    return folder


@pytest.mark.slow
def test_a_label_that_one_slide_of_a_case_shows_is_learned(study, tmp_path):
    seed_everything(1)
    table = study / "cases.csv"
    dm = WSIDataModule(
        table, case_column="patient", level=0, lazy=True, batch_size=2, num_workers=0, test_fraction=0.4, leaks="off"
    )
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False, "accelerator": "cpu"}
    trainer = Trainer(max_epochs=3, limit_val_batches=0, num_sanity_val_steps=0, default_root_dir=tmp_path, **quiet)
    model = CaseNetwork()
    trainer.fit(model, datamodule=dm)
    trainer.save_checkpoint(tmp_path / "best.ckpt")
    name = f"{CaseNetwork.__module__}.CaseNetwork"
    with pytest.warns(LeakWarning, match="test images were in the checkpoint's training set"):
        done = predict(
            tmp_path / "best.ckpt", [table], tmp_path / "new.csv", model_class=name, trainer={"accelerator": "cpu"}
        )
    assert done.images == 24
    assert done.is_of_cases
    unseen = set(dm.tables["val"]["image_id"]) | set(dm.tables["test"]["image_id"])
    found = read_predictions(tmp_path / "new.csv")
    found = found[found["image"].isin(unseen)]
    assert len(found) == 15
    assert auroc(found) == 1.0
    # The first slide alone does not show it; and cases are what pooling all their slides at once gives.
    dm.setup("test")
    cases = [image for images, _ in dm.test_dataloader() for image in images]
    with torch.no_grad():
        of_first, of_all = (torch.softmax(model.eval()(one), 1)[:, 1] for one in ([[case[0]] for case in cases], cases))
        whole = [torch.cat([image.rows(0, image.shape[1]).flatten(1) for image in case], 1) for case in cases]
        plain = [model.head(model.trunk(pixels[None, :, :, None] / 255).flatten(1)) for pixels in whole]
    assert torch.allclose(of_all, torch.softmax(torch.cat(plain), 1)[:, 1], atol=1e-6)
    truth = dm.tables["test"]["label"].to_numpy()
    pairs = [(a, b) for a in of_first[truth == 1] for b in of_first[truth == 0]]
    assert np.mean([float(a > b) for a, b in pairs]) < 0.9
