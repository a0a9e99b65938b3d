"""Training on whole slides of up to a gigapixel from slide-level labels, in little memory on a processor.

    python -m study.gigapixel runs/gigapixel --slides 24 --side 32768 --epochs 3

A narrow network with a frozen stem of Gabor filters learns from small synthetic slides first, then from slides of
`side` x `side` pixels at 0.5 um/px. They are read lazily, row by row, their pieces of tissue packed. The folder gets
epochs.csv, scores.csv, predictions, memory.csv (MB over seconds), heatmap.npy, summary.json and gigapixel.png. Started
again, it goes on after the last stage, or epoch, that ended.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jsonargparse import auto_cli
from lightning import Callback as LightningCallback
from lightning import LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from sklearn.metrics import roc_auc_score
from torch import nn

from streammodels import LogSumExp, StreamingClassifier, stream
from study.memory import resident_bytes
from wsidata import Slide, WSIDataModule
from wsidata.annotations import Annotations
from wsidata.evaluation import PredictionWriter, scores_with_intervals
from wsidata.synthetic import write_micrometastases

STRIP_ROWS = 512
NAMES = ("train_loss", "val_loss", "val_auroc")


def main(
    folder: Path, slides: int = 24, side: int = 32768, epochs: int = 3, learning_rate: float = 1e-3,
    small_slides: int = 280, small_steps: int = 300, largest: int | None = None, seed: int = 0,
) -> None:  # fmt: skip
    """Write slides, train, score the test slides, draw a figure; what is there already is not written again.

    Args:
        folder: Folder for slides and results.
        slides: Number of large slides; two thirds train and validate, a third tests, pairs of a patient together.
        side: Their side in pixels, a multiple of 1024.
        epochs: Epochs of training on them.
        learning_rate: Of Adam, on the large slides.
        small_slides: Slides of 512 x 512 pixels that the network learns from first.
        small_steps: Steps of 16 of them.
        largest: Side of one more slide, on which one training step is made, and whose memory is measured.
        seed: Of slides, split and weights.
    """
    torch.set_num_threads(1)
    seed_everything(seed, workers=True, verbose=False)
    folder.mkdir(parents=True, exist_ok=True)
    small, large = folder / "small", folder / f"large_{side}"
    if not (small / "slides.csv").exists():
        write_micrometastases(
            small, slides=small_slides, side_px=512, lesion_share=(0.03, 0.08), lesions=(1, 2), mimics=(1, 3),
            seed=seed + 100,
        )  # fmt: skip
    if not (large / "slides.csv").exists():
        write_micrometastases(
            large, slides=slides, side_px=side, lesion_share=(max(0.002, 3000 / side**2), 0.02), seed=seed
        )
    summary = Summary(folder / "summary.json", {"slides": slides, "side": side, "epochs": epochs, "seed": seed})
    trunk, head = network()
    started = folder / "small.pt"
    if not started.exists():
        torch.save(train_small(trunk, head, small, small_steps), started)
    trunk_state, head_state, small_auroc = torch.load(started, weights_only=False)
    summary.once("small_auroc", lambda: small_auroc)
    trunk.load_state_dict(trunk_state)
    head.load_state_dict(head_state)
    with Memory(folder / "memory.csv") as memory:
        model = StreamingClassifier(
            trunk, head, strip_rows=STRIP_ROWS, optimizer=lambda ours: adam(ours, learning_rate)
        )
        trunk[0].requires_grad_(False)
        data = WSIDataModule(
            large / "slides.csv", large / "images", label_column="label", group_column="patient", mpp=0.5, lazy=True,
            crop="pack", batch_size=1, val_fraction=1 / 6, test_fraction=1 / 3, seed=seed, num_workers=0,
        )  # fmt: skip
        difference = summary.once("gradients", lambda: gradients(trunk, head, large))
        print("Largest relative difference of float64 gradients:", difference, flush=True)

        def predict(when: str) -> float:
            memory.stage, begun = f"predict {when}", time.time()
            writer = PredictionWriter(folder / f"predictions_{when}.csv")
            trainer(folder, 1, [writer]).predict(model, data, return_predictions=False)
            return round(time.time() - begun, 1)

        summary.once("predict_before_s", lambda: predict("before"))
        memory.stage = "train"
        fit(model, data, folder, epochs, memory)
        summary.once("predict_after_s", lambda: predict("after"))
        scores = {
            one: scores_with_intervals(pd.read_csv(folder / f"predictions_{one}.csv")) for one in ("before", "after")
        }
        pd.concat(scores, names=["trained"]).reset_index(0).to_csv(folder / "scores.csv", index=False)
        memory.stage, test = "heat map", data.tables["test"]
        shown = summary.once("shown", lambda: test[test["label_name"] == "positive"].iloc[0]["image_id"])
        if not (folder / "heatmap.npy").exists():
            np.save(folder / "heatmap.npy", heat_map(model, large / "images" / f"{Path(shown).stem}.tif"))
        if largest:
            memory.stage = f"a step at {largest}"
            summary.once(f"step_{largest}", lambda: step(model, folder, largest, seed))
    summary["peak_mb_by_stage"] = pd.read_csv(folder / "memory.csv").groupby("stage", sort=False)["mb"].max().to_dict()
    summary.write()
    draw(folder, large, summary)


class Summary(dict[str, Any]):
    """What is known of a run, in a JSON file that is written with every stage."""

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        super().__init__(settings)
        self.path = path
        if path.exists():
            before = json.loads(path.read_text())
            if differing := [name for name in settings if before[name] != settings[name]]:
                raise ValueError(f"{path} is of a run with another {', '.join(differing)}. Choose another folder.")
            self.update(before)

    def once(self, name: str, do: Callable[[], Any]) -> Any:
        """What a stage found, now or in an earlier run."""
        if name not in self:
            self[name] = do()
            self.write()
        return self[name]

    def write(self) -> None:
        """Write the file."""
        self.path.write_text(json.dumps(self, indent=1))


def fit(model: StreamingClassifier, data: WSIDataModule, folder: Path, epochs: int, memory: Memory) -> None:
    """Train, from the last epoch that ended; weights are those of the last epoch."""
    last = ModelCheckpoint(folder, "epoch", enable_version_counter=False)
    begun = folder / "epoch.ckpt"
    trainer(folder, epochs, [last, Epochs(folder / "epochs.csv", memory)]).fit(
        model, data, ckpt_path=begun if begun.exists() else None
    )
    model.load_state_dict(torch.load(begun, weights_only=False)["state_dict"])


def network() -> tuple[nn.Sequential, nn.Linear]:
    """A stem of 16 Gabor filters, two more convolutions, and log-sum-exp over the slide; a linear head."""
    stem = nn.Sequential(nn.Conv2d(3, 16, 8, stride=4, padding=2, bias=False), nn.ReLU())
    place = torch.arange(8) - 3.5
    y, x = torch.meshgrid(place, place, indexing="ij")
    filters = list[torch.Tensor]()
    for period_px in (2.7, 4.0, 6.0, 9.0):
        for turn in np.pi / 4 * np.arange(4):
            wave = torch.cos(2 * np.pi / period_px * (x * np.cos(turn) + y * np.sin(turn)))
            wave = wave * torch.exp(-(x**2 + y**2) / (2 * 2.2**2))
            filters.append((wave - wave.mean()) / wave.abs().sum())
    stem[0].weight.data = torch.stack(filters)[:, None].repeat(1, 3, 1, 1).float()
    body = [nn.Conv2d(16, 24, 3, 2, 1), nn.ReLU(), nn.Conv2d(24, 32, 3, 2, 1), nn.ReLU()]
    return nn.Sequential(stem, *body, LogSumExp(4.0)), nn.Linear(32, 2)


def adam(parameters: Any, learning_rate: float) -> torch.optim.Optimizer:
    """Adam for the parameters that are trained."""
    return torch.optim.Adam([one for one in parameters if one.requires_grad], learning_rate)


def train_small(trunk: nn.Sequential, head: nn.Module, folder: Path, steps: int) -> tuple[Any, Any, float]:
    """Weights after training behind the stem on small slides, and the AUROC on the quarter that was not trained on."""
    table = pd.read_csv(folder / "slides.csv")
    labels = torch.tensor((table["label"] == "positive").to_numpy().astype(int))
    images = [torch.from_numpy(_whole(folder / "images" / name))[None] for name in table["image"]]
    stem, rest = trunk[0], trunk[1:]
    with torch.no_grad():
        seen = torch.cat([stem(one.float() / 255) for one in images[:16]])
        next(stem.parameters()).div_(
            2 * seen.mean((0, 2, 3))[:, None, None, None]
        )  # a mean of one half for each filter
        maps = torch.cat([stem(one.float() / 255) for one in images])
    train = 3 * len(table) // 4 // 2 * 2
    parameters = [*rest.parameters(), *head.parameters()]
    optimizer = torch.optim.Adam(parameters, 8e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 8e-3, total_steps=steps)
    for number in range(steps):
        drawn = torch.randint(0, train, (16,))
        loss = nn.functional.cross_entropy(head(rest(maps[drawn]).flatten(1)), labels[drawn])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        if number % 50 == 49:
            print(f"small slides, step {number + 1}: loss {loss.item():.3f}", flush=True)
    with torch.no_grad():
        out = torch.cat([head(rest(part).flatten(1)) for part in torch.split(maps[train:], 16)])
    auroc = float(roc_auc_score(labels[train:].numpy(), (out[:, 1] - out[:, 0]).numpy()))
    print(f"small slides: AUROC {auroc:.3f} on the {len(out)} not trained on", flush=True)
    return trunk.state_dict(), head.state_dict(), auroc


def gradients(trunk: nn.Module, head: nn.Module, folder: Path) -> float:
    """Largest relative difference of streamed float64 gradients of a crop from those of plain autograd."""
    name = sorted((folder / "images").glob("*.tif"))[0]
    with Slide(name) as slide:
        middle = slide.width // 2
        pixels = slide.read_region(middle - 512, middle - 384, 1024, 768, level=0)
    crop = torch.from_numpy(np.array(np.asarray(pixels)[..., :3])).permute(2, 0, 1)[None].double() / 255
    made = network()
    double = [new.double() for new in made]
    double[0].load_state_dict(trunk.state_dict())
    double[1].load_state_dict(head.state_dict())
    found = []
    for module in (double[0], stream(double[0], strip_rows=96)):
        double[0].zero_grad()
        loss = nn.functional.cross_entropy(double[1](module(crop).flatten(1)), torch.tensor([1]))
        loss.backward()  # type: ignore[no-untyped-call]
        found.append([one.grad.clone() for one in double[0].parameters() if one.grad is not None])
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(*found, strict=True))


def heat_map(model: StreamingClassifier, path: Path) -> np.ndarray:
    """Logit of the class positive at each place of a slide that is read whole, lazily."""
    with Slide(path) as slide:
        found = model.class_activation_map(slide.lazy(mpp=0.5), 1)
    return found.values[0].numpy().astype(np.float16)


def step(model: StreamingClassifier, folder: Path, side: int, seed: int) -> dict[str, float]:
    """Seconds of a training step on one slide, read lazily with its tissue packed, and its megapixels."""
    made = folder / f"largest_{side}"
    if not (made / "slides.csv").exists():
        write_micrometastases(
            made, slides=1, side_px=side, lesion_share=(max(0.002, 3000 / side**2), 0.02), seed=seed + 1
        )
    with Slide(made / "images" / "slide_0000.tif") as slide:
        image = slide.lazy(mpp=0.5, crop="pack")
    begun = time.time()
    loss = nn.functional.cross_entropy(model([image]), torch.tensor([0]))
    forward = time.time() - begun
    loss.backward()  # type: ignore[no-untyped-call]
    height, width = image.shape[-2:]
    seconds = time.time() - begun
    return {"forward_s": round(forward, 1), "step_s": round(seconds, 1), "packed_megapixels": height * width / 1e6}


class Memory:
    """Resident memory of this process, added to a table every second by a thread until the block ends."""

    def __init__(self, path: Path) -> None:
        self.path, self.stage, self.done, self.peak_mb = path, "start", threading.Event(), 0.0
        self.begun = time.time()
        if not path.exists():
            path.write_text("seconds,stage,mb\n")
        elif len(before := pd.read_csv(path)):
            self.begun -= float(before["seconds"].iloc[-1])

    def __enter__(self) -> Memory:
        threading.Thread(target=self._watch, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self.done.set()

    @property
    def seconds(self) -> float:
        """Since the beginning, without the time between runs."""
        return round(time.time() - self.begun, 1)

    def _watch(self) -> None:
        while not self.done.wait(1):
            used = resident_bytes() / 1e6
            self.peak_mb = max(self.peak_mb, used)
            with self.path.open("a") as out:
                out.write(f"{self.seconds},{self.stage},{used:.1f}\n")


class Epochs(LightningCallback):
    """Training and validation loss of each epoch, and the seconds and memory so far, added to a table."""

    def __init__(self, path: Path, memory: Memory) -> None:
        self.path, self.memory = path, memory

    def on_train_batch_end(self, trainer: Trainer, model: LightningModule, *others: Any) -> None:
        """Print where training is."""
        print(f"epoch {trainer.current_epoch} step {trainer.global_step} {self.memory.seconds:.0f} s", flush=True)

    def on_train_epoch_end(self, trainer: Trainer, model: LightningModule) -> None:
        """Write an epoch's row."""
        found = {one: float(value) for one, value in trainer.callback_metrics.items() if one in NAMES}
        passed = {"seconds": self.memory.seconds, "peak_mb": round(self.memory.peak_mb, 1)}
        row = {"epoch": trainer.current_epoch, **found, **passed}
        pd.DataFrame([row]).to_csv(self.path, mode="a", header=not self.path.exists(), index=False)
        print(row, flush=True)


def trainer(folder: Path, epochs: int, callbacks: list[LightningCallback]) -> Trainer:
    """A quiet Trainer on the processor, whose gradients are clipped."""
    return Trainer(
        max_epochs=epochs, accelerator="cpu", callbacks=callbacks, logger=CSVLogger(folder / "logs"),
        gradient_clip_val=1.0, enable_progress_bar=False,
        num_sanity_val_steps=0, log_every_n_steps=1, enable_model_summary=False,
    )  # fmt: skip


def draw(folder: Path, large: Path, summary: dict[str, Any]) -> None:
    """gigapixel.png, from the files in the folder."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 4, figsize=(17, 4.2), width_ratios=(1, 1, 1.1, 1.1))
    epochs, memory = pd.read_csv(folder / "epochs.csv"), pd.read_csv(folder / "memory.csv")
    for name in ("train_loss", "val_loss"):
        axes[0].plot(epochs["epoch"] + 1, epochs[name], "o-", label=name.replace("_", " "))
    axes[0].set(xlabel="epoch", ylabel="cross entropy")
    axes[0].legend()
    axes[1].plot(memory["seconds"] / 60, memory["mb"] / 1000)
    axes[1].axhline(3, color="0.6", linestyle="--")
    axes[1].set(xlabel="minutes", ylabel="resident memory, GB", ylim=(0, 3.3))
    name = Path(summary["shown"]).stem
    with Slide(large / "images" / f"{name}.tif") as slide:
        thumbnail = slide.thumbnail(1024).numpy()
    values = np.load(folder / "heatmap.npy").astype(np.float32)
    extent = (0, summary["side"], summary["side"], 0)
    axes[2].imshow(thumbnail, extent=extent)
    axes[3].imshow(_pooled(values, 512), extent=extent, cmap="magma", vmin=np.quantile(values, 0.5))
    for outline in Annotations.read(large / "annotations" / f"{name}.xml").outlines:
        ring = np.concatenate([outline.parts[0][0], outline.parts[0][0][:1]])
        for axis, color in ((axes[2], "black"), (axes[3], "cyan")):
            axis.plot(*ring.T, color=color, linewidth=1)
    axes[2].set_title(f"{name}, outlines of lesions")
    axes[3].set_title("logit of the class positive")
    for axis in axes[2:]:
        axis.axis("off")
    figure.tight_layout()
    figure.savefig(folder / "gigapixel.png", dpi=110)


def _pooled(values: np.ndarray, side: int) -> np.ndarray:
    """A map shrunk to about `side` by means of whole blocks."""
    step = max(1, values.shape[0] // side)
    height, width = (length // step * step for length in values.shape)
    blocks = values[:height, :width].reshape(height // step, step, width // step, step)
    return np.asarray(blocks.mean((1, 3)))


def _whole(path: Path) -> np.ndarray:
    with Slide(path) as slide:
        return np.array(slide.numpy(level=0)).transpose(2, 0, 1)


if __name__ == "__main__":
    auto_cli(main)
