"""The task of finding lesions on synthetic slides, read by the data module that real slides are read by."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import count

import torch
from torch import Tensor

from study.arms import Arm
from study.data import Part, Task, features_of
from study.networks import Look
from wsidata import WSIDataModule
from wsidata.synthetic import write_micrometastases

MPP = 0.5


@dataclass(frozen=True)
class Slides(Task):
    """Slides with small lesions or with mimics alone; patients have one of each, and are in one part.

    Training slides are turned and mirrored; all arms and seeds of the weights see the same in the same order.

    Attributes:
        side_px: Side of level 0.
        least_share: Least share of the tissue that is lesion on positive slides.
        most_share: The greatest.
        slides: Number of slides; a sixth of them validates, and a third is the test part.
        steps: Training steps.
        batch: Slides a step.
    """

    side_px: int = 512
    least_share: float = 0.015
    most_share: float = 0.03
    slides: int = 480
    steps: int = 300
    batch: int = 8

    look = Look(colors=3, mean=0.8, sd=0.2)
    strip_rows = 64

    @property
    def key(self) -> str:
        """Name of the data, in file names."""
        return f"{self._written}_{self.steps}x{self.batch}"

    def batches(self, arm: Arm) -> Iterator[tuple[Tensor, Tensor]]:
        """Epoch after epoch of the training slides.

        Raises:
            ValueError: for features, which are not of turned slides.
        """
        if arm.reads == "features":
            raise ValueError(f"'{arm.name}' needs features of augmented slides, which are not made. Leave it out.")
        loader = self._module.train_dataloader()
        for epoch in count():
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(epoch)  # of the order and the turns; not of the weights
                batches = iter(loader)
            yield from batches

    def held_out(self, part: Part, arm: Arm) -> tuple[Tensor, Tensor]:
        """Slides of the validation or test part, or the features of their tiles, and labels."""
        images, labels = self._parts[part]
        if arm.reads == "features":
            path = self.folder / f"{self._written}_{part}_{arm.encoder}{arm.tile_px}.pt"
            images = features_of(images, arm, self.look, path)
        return images, labels

    @property
    def _written(self) -> str:
        return f"slides_{self.side_px}px_{self.least_share:g}to{self.most_share:g}_{self.slides}"

    @cached_property
    def _parts(self) -> dict[str, tuple[Tensor, Tensor]]:
        loaders = {"val": self._module.val_dataloader(), "test": self._module.test_dataloader()}
        read = {part: list(loader) for part, loader in loaders.items()}
        return {part: tuple(torch.cat(one) for one in zip(*of, strict=True)) for part, of in read.items()}  # type: ignore[misc]

    @cached_property
    def _module(self) -> WSIDataModule:
        folder = self.folder / self._written
        if not (folder / "slides.csv").exists():
            write_micrometastases(
                folder, slides=self.slides, side_px=self.side_px, lesion_share=(self.least_share, self.most_share)
            )
        module = WSIDataModule(
            folder / "slides.csv", folder / "images", label_column="label", group_column="patient", mpp=MPP,
            image_size=self.side_px, val_fraction=1 / 6, test_fraction=1 / 3, batch_size=self.batch, num_workers=0,
            leaks="off",
        )  # fmt: skip
        module.setup()
        return module
