"""What the arms are trained on: batches in a fixed order that all arms share, a validation part and a test part."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from study.arms import Arm
from study.encoders import encode
from wsidata.synthetic.needles import Canvases, Part, draw_needles

_SEED_OF_PART = {"val": 11, "test": 12}


@dataclass(frozen=True)
class Needles:
    """Canvases of digits, drawn for one length of training; all arms and seeds of the weights see the same.

    Training canvases are fresh, and begin with two digits; their number grows to `digits` over the first 70 % of the
    steps. Without this, none of the arms begins to learn in so few steps.

    Attributes:
        folder: Where canvases and features are kept between runs.
        side_px: Side of a canvas.
        digits: Digits on each.
        steps: Training steps.
        batch: Canvases a step.
        held: Validation canvases; there are two and a half times as many test canvases.
    """

    folder: Path
    side_px: int = 96
    digits: int = 14
    steps: int = 500
    batch: int = 16
    held: int = 400

    colors = 1
    strip_rows = 32

    @property
    def key(self) -> str:
        """Name of the data, in file names."""
        return f"needles_{self.side_px}px_{self.digits}digits_{self.steps}x{self.batch}"

    @property
    def facts(self) -> dict[str, object]:
        """Columns of the tables."""
        return {name: value for name, value in asdict(self).items() if name != "folder"}

    def digits_at(self, step: int) -> int:
        """Digits on the canvases of a step."""
        grown = min(1.0, step / (0.7 * self.steps))
        return max(2, round(2 + (self.digits - 2) * grown))

    @cached_property
    def train(self) -> tuple[Tensor, Tensor]:
        """(steps x batch, 1, side, side) uint8 and labels, in the order of training."""
        return self._kept("train")

    @cached_property
    def val(self) -> tuple[Tensor, Tensor]:
        """Images and labels on which settings are chosen."""
        return self._kept("val")

    @cached_property
    def test(self) -> tuple[Tensor, Tensor]:
        """Images and labels that are looked at once, with the chosen settings."""
        return self._kept("test")

    def inputs(self, part: Part, arm: Arm) -> tuple[Tensor, Tensor]:
        """What the network of an arm is called with, and labels: images, or the features of their tiles."""
        images, labels = getattr(self, part)
        if arm.reads != "features":
            return images, labels
        path = self.folder / f"{self._name(part)}_{arm.encoder}{arm.tile_px}.pt"
        if not path.exists():
            save(encode(images, arm), path)
        return torch.load(path, mmap=True), labels

    def held_out(self, part: Part) -> Canvases:
        """The canvases of the validation or test part, with the places of their digits."""
        count = self.held if part == "val" else self.held * 5 // 2
        return draw_needles(count, side_px=self.side_px, digits=self.digits, part=part, seed=_SEED_OF_PART[part])

    def _name(self, part: Part) -> str:
        return f"{self.key}_{part}" if part == "train" else f"needles_{self.side_px}px_{self.digits}digits_{part}"

    def _kept(self, part: Part) -> tuple[Tensor, Tensor]:
        path = self.folder / f"{self._name(part)}.pt"
        if not path.exists():
            images, labels = self._draw(part)
            save((torch.from_numpy(images)[:, None], torch.from_numpy(labels)), path)
        images_and_labels: tuple[Tensor, Tensor] = torch.load(path, mmap=True)
        return images_and_labels

    def _draw(self, part: Part) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        if part == "train":
            drawn = [
                draw_needles(self.batch, side_px=self.side_px, digits=self.digits_at(step), part=part, seed=1000 + step)
                for step in range(self.steps)
            ]
        else:
            drawn = [self.held_out(part)]
        return np.concatenate([one.images for one in drawn]), np.concatenate([one.labels for one in drawn])


Data = Needles
"""What arms can be trained on."""


def save(value: object, path: Path) -> None:
    """Write tensors, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(path.name + ".new")
    torch.save(value, beside)
    beside.replace(path)
