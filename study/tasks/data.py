"""What arms are trained on: batches in an order that all arms share, a validation part and a test part."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal, Protocol

import torch
from torch import Tensor

from study.arms import Arm
from study.networks import Look
from study.tasks.encoders import encode

Part = Literal["train", "val", "test"]


@dataclass(frozen=True)
class Task:
    """A task whose fields say what it is.

    Attributes:
        folder: Where data, features and trained networks are kept between runs.
    """

    folder: Path

    @property
    def facts(self) -> dict[str, object]:
        """Columns of the tables."""
        return {one.name: getattr(self, one.name) for one in fields(self) if one.name != "folder"}


class Data(Protocol):
    """A task with its length of training; data of equal fields are the same."""

    @property
    def folder(self) -> Path:
        """Where data, features and trained networks are kept between runs."""

    @property
    def steps(self) -> int:
        """Training steps."""

    @property
    def look(self) -> Look:
        """How the images look."""

    @property
    def strip_rows(self) -> int:
        """Height of the strips of whole images."""

    @property
    def key(self) -> str:
        """Name of the data, in file names."""

    @property
    def facts(self) -> dict[str, object]:
        """Columns of the tables."""

    def batches(self, arm: Arm) -> Iterator[tuple[Tensor, Tensor]]:
        """Training batches without end, or as many as there are steps: what the network is called with, and labels."""

    def held_out(self, part: Part, arm: Arm) -> tuple[Tensor, Tensor]:
        """All of the validation or test part, likewise."""


def features_of(read: Callable[[], Tensor], arm: Arm, look: Look, path: Path) -> Tensor:
    """Features of the tiles of images, (N, tiles, F), kept in a file from the first time on."""
    if not path.exists():
        save(encode(read(), arm, look), path)
    found: Tensor = torch.load(path, mmap=True)
    return found


def save(value: object, path: Path) -> None:
    """Write tensors, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(path.name + ".new")
    torch.save(value, beside)
    beside.replace(path)
