"""Publishing of data modules to a Hub, and comparison after loading, each in its own process and cache.

python journey.py publish SLIDES PHOTOS FOLDER          prints a line of JSON per variant: name, commit
python journey.py load SLIDES PHOTOS FOLDER             prints a line of JSON per variant: name, and what is the same
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyvips
import torch
from lightning import LightningModule, Trainer, seed_everything

from wsidata import HubDataModule, ImageFolderDataModule, WSIDataModule, publish
from wsidata.datamodules.base import SplitDataModule
from wsidata.stats.result import ChannelStats

VARIANTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "png": ({}, {"layout": "files", "image_format": "png"}),
    "tiff": ({"crop": "pack"}, {"image_format": "tiff"}),
    "jpeg": ({}, {"layout": "files", "image_format": "jpeg", "quality": 90}),
    "parquet": ({"sampling": "balanced", "dtype": "float"}, {"layout": "parquet", "image_format": "png"}),
    "photos": ({"resize_px": 48, "image_size": 40}, {"layout": "files"}),
    "photos-parquet": ({"resize_px": 48, "image_size": 40, "normalize": "stats"}, {"layout": "parquet"}),
}
"""Arguments of the data module, and of `publish`."""


def original(name: str, slides: Path, photos: Path) -> SplitDataModule:
    """The data module of a variant."""
    options, _ = VARIANTS[name]
    if name.startswith("photos"):
        return ImageFolderDataModule(
            photos / "labels.csv", photos / "photos", label_column="label", num_workers=0, batch_size=4,
            test_fraction=0.2, leaks="off", **options,
        )  # fmt: skip
    return WSIDataModule(
        slides / "evaluation" / "reference.csv", slides / "images", test_prefix="test_", level=1, image_size=64,
        num_workers=0, batch_size=3, leaks="off", **options,
    )  # fmt: skip


class Small(LightningModule):
    """A convolution and a linear layer, trained by gradient descent."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Conv2d(3, 4, 5, 3), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(2), torch.nn.Flatten(),
            torch.nn.Linear(16, classes),
        )  # fmt: skip

    def training_step(self, batch: Any, _: int) -> torch.Tensor:
        """One step."""
        images, labels = batch
        scale = 255 if images.dtype == torch.uint8 else 1
        return torch.nn.functional.cross_entropy(self.layers(images.float() / scale), labels)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Gradient descent."""
        return torch.optim.SGD(self.parameters(), lr=0.1)


def trained(dm: SplitDataModule) -> str:
    """Digest of the weights after two epochs."""
    seed_everything(5, verbose=False)
    model = Small(dm.num_classes)
    quiet = {
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "logger": False,
        "enable_checkpointing": False,
    }
    with TemporaryDirectory() as folder:
        trainer = Trainer(
            max_epochs=2, accelerator="cpu", num_sanity_val_steps=0, limit_val_batches=0, default_root_dir=folder,
            **quiet,
        )  # fmt: skip
        trainer.fit(model, dm)
    weights = b"".join(value.numpy().tobytes() for value in model.state_dict().values())
    return hashlib.sha256(weights).hexdigest()


def pixels(dm: SplitDataModule) -> list[torch.Tensor]:
    """Every evaluated image, by split."""
    dm.setup()
    parts = [("train", dm.make_dataset("train").image)] + [
        (part, dm.make_dataset(part).image) for part in ("val", "test")
    ]
    return [image(row) for part, image in parts for row in range(len(dm.tables[part]))]


def compare(name: str, ours: SplitDataModule, theirs: HubDataModule, folder: Path) -> dict[str, Any]:
    """Comparison of a data module with what was loaded."""
    statistics = ours.stats, theirs.stats  # known from here on, and remembered
    pairs = list(zip(pixels(ours), pixels(theirs), strict=True))
    memory, remembered = (one.state_dict() for one in (ours, theirs))
    for one in (memory, remembered):  # how slides were read is not published where it is the default
        one["stats"] = ChannelStats.from_json(one["stats"])
    exported = {path.name: path.read_bytes() for path in folder.rglob("*") if path.suffix in (".png", ".jpg", ".tif")}
    loaded = [Path(path) for path in theirs.labels.frame["path"]]
    return {
        "variant": name,
        "commit": theirs.commit,
        "identical pixels": sum(torch.equal(first, second) for first, second in pairs),
        "images": len(pairs),
        "largest difference": max(float((a.float() - b.float()).abs().max()) for a, b in pairs),
        "identical files": sum(path.read_bytes() == exported.get(path.name) for path in loaded),
        "metadata": sorted({field for path in loaded for field in _fields(path)}),
        # Slides have um per pixel that are compared; published images are of one resolution.
        "same memory": {key: memory[key] == remembered[key] for key in memory if key != "mpp"},
        "same stats": statistics[0] == statistics[1],
        "same tables": ours.labels.frame.drop(columns="path").equals(theirs.labels.frame.drop(columns="path")),
        "same model": trained(ours) == trained(theirs),
    }


def _fields(path: Path) -> list[str]:
    image = pyvips.Image.new_from_file(str(path))
    return [field for field in image.get_fields() if field.startswith(("exif-", "icc-", "image-description", "xmp-"))]


def main() -> None:
    """One half of the journey."""
    half, slides, photos, folder = sys.argv[1], *map(Path, sys.argv[2:5])
    for name in VARIANTS:
        dm = original(name, slides, photos)
        if half == "publish":
            made = publish(
                dm, f"tester/{name}", folder=folder / name, quiet=True, say=lambda _: None, **VARIANTS[name][1]
            )
            print(json.dumps({"variant": name, "commit": made.commit, "private": made.private}), flush=True)
        else:
            print(
                json.dumps(compare(name, dm, HubDataModule(f"tester/{name}", num_workers=0), folder / name)), flush=True
            )


if __name__ == "__main__":
    main()
