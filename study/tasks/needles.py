"""The task of finding a digit on canvases with known truth."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from study.arms import Arm
from study.networks import Look
from study.tasks.data import Part, Task, features_of, save
from wsidata.synthetic.needles import Canvases, draw_needles

_SEED_OF_PART = {"val": 11, "test": 12}


@dataclass(frozen=True)
class Needles(Task):
    """Canvases of digits, drawn for one length of training; all arms and seeds of the weights see the same.

    Training canvases are fresh, and begin with two digits; their number grows to `digits` over the first 70 % of the
    steps, so that the networks begin to learn in few steps.

    Attributes:
        side_px: Side of a canvas.
        digits: Digits on each.
        steps: Training steps.
        batch: Canvases a step.
        held: Validation canvases; there are two and a half times as many test canvases.
    """

    side_px: int = 96
    digits: int = 14
    steps: int = 300
    batch: int = 16
    held: int = 400

    look = Look(colors=1, mean=0.275, sd=0.1)
    strip_rows = 32

    @property
    def key(self) -> str:
        """Name of the data, in file names."""
        return f"{self._canvas}_{self.steps}x{self.batch}"

    def digits_at(self, step: int) -> int:
        """Digits on the canvases of a step."""
        grown = min(1.0, step / (0.7 * self.steps))
        return max(2, round(2 + (self.digits - 2) * grown))

    def batches(self, arm: Arm) -> Iterator[tuple[Tensor, Tensor]]:
        """Fresh canvases of each step, or the features of their tiles, and labels."""
        inputs, labels = self._inputs("train", f"{self.key}_train", arm)
        for step in range(self.steps):
            rows = slice(step * self.batch, (step + 1) * self.batch)
            yield inputs[rows], labels[rows]

    def held_out(self, part: Part, arm: Arm) -> tuple[Tensor, Tensor]:
        """Canvases of the validation or test part, or the features of their tiles, and labels."""
        return self._inputs(part, f"{self._canvas}_{part}", arm)

    def canvases(self, part: Part) -> Canvases:
        """The canvases of the validation or test part, with the places of their digits."""
        count = self.held if part == "val" else self.held * 5 // 2
        return draw_needles(count, side_px=self.side_px, digits=self.digits, part=part, seed=_SEED_OF_PART[part])

    @property
    def _canvas(self) -> str:
        return f"needles_{self.side_px}px_{self.digits}digits"

    def _inputs(self, part: Part, name: str, arm: Arm) -> tuple[Tensor, Tensor]:
        path = self.folder / f"{name}.pt"
        if not path.exists():
            drawn = self._training_canvases() if part == "train" else [self.canvases(part)]
            images = np.concatenate([one.images for one in drawn])[:, None]
            save((torch.from_numpy(images), torch.from_numpy(np.concatenate([one.labels for one in drawn]))), path)
        inputs, labels = torch.load(path, mmap=True)
        if arm.reads == "features":
            images, kept = inputs, self.folder / f"{name}_{arm.encoder}{arm.tile_px}.pt"
            inputs = features_of(lambda: images, arm, self.look, kept)
        return inputs, labels

    def _training_canvases(self) -> list[Canvases]:
        return [
            draw_needles(
                self.batch, side_px=self.side_px, digits=self.digits_at(step), part="train", seed=1000 + step
            )
            for step in range(self.steps)
        ]  # fmt: skip
