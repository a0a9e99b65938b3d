"""Tumor or no tumor on the slides of Camelyon16, with a ResNet-18 that streams.

python recipes/camelyon16.py camelyon16 --mpp 0.5 --lazy true        the folder of the published data
slidestream fit --config camelyon16 --data.folder camelyon16         the same on the command line, with more options
"""

from functools import partial
from pathlib import Path

import torch
from jsonargparse import auto_cli
from lightning import Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger

from slidestream import load_trained
from slidestream.heatmaps import HeatmapOptions, draw_heatmaps, score_drawn
from streammodels import FineTuning, StreamingResNet
from wsidata import Camelyon16DataModule
from wsidata.evaluation import PredictionWriter, write_report


def main(
    folder: Path, out: Path = Path("runs/camelyon16"), mpp: float = 8.0, image_size: int = 4096, lazy: bool = False,
    network: str = "resnet18", weights: str | None = "DEFAULT", memory: str | None = None, epochs: int = 20,
    unfreeze_at: int | None = 10, learning_rate: float = 1e-4, num_workers: int = 2,
) -> None:  # fmt: skip
    """Train a pretrained network; predict the test slides; score heat maps against annotations/; write a report.

    Args:
        folder: Folder with images/, evaluation/reference.csv and perhaps annotations/.
        out: Folder for the results.
        mpp: Resolution to read at, um per pixel.
        image_size: Side in pixels that slides are cropped or padded to.
        lazy: Decode the rows of a slide as the network reads them, so that it is never whole in memory.
        network: resnet9 to resnet152, or a wide or ResNeXt variant.
        weights: DEFAULT for ImageNet's, which are downloaded; a file; or null for random ones.
        memory: Memory budget of a training step, such as 8GB; null for what a GPU has free, and moderate on a CPU.
        epochs: Number of epochs.
        unfreeze_at: Epoch from which on the trunk is trained, too; null for never.
        learning_rate: Of AdamW.
        num_workers: Processes that read slides.
    """
    seed_everything(42, workers=True)
    slides = Camelyon16DataModule(folder, mpp=mpp, image_size=image_size, lazy=lazy, num_workers=num_workers)
    model = StreamingResNet(
        network, num_classes=slides.num_classes, weights=weights, memory=memory,
        optimizer=partial(torch.optim.AdamW, lr=learning_rate), fine_tuning=FineTuning(unfreeze_at=unfreeze_at),
    )  # fmt: skip
    best, writer = ModelCheckpoint(out, "best", monitor="val_loss"), PredictionWriter(out / "predictions.csv")
    trainer = Trainer(max_epochs=epochs, logger=CSVLogger(out, "", ""), callbacks=[best, writer], log_every_n_steps=1)
    trainer.fit(model, slides)
    trainer.predict(model, slides, ckpt_path="best", return_predictions=False)  # the test slides
    if (folder / "annotations").is_dir():
        test, trained = slides.tables["test"], load_trained(best.best_model_path)
        trained.model.to(trainer.strategy.root_device)
        normal = test.loc[test["label_name"] == "normal", "image_id"].tolist()
        how = HeatmapOptions("tumor", annotations=folder / "annotations", unannotated=normal, existing="replace")
        drawn = draw_heatmaps(trained, test["path"].tolist(), out / "heatmaps", how)
        print(score_drawn(drawn, out / "heatmaps", how))  # of each slide: lesions.csv
    print(f"Report: {write_report(out)}")


if __name__ == "__main__":
    auto_cli(main)
