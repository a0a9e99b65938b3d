"""Memory of the maps that wait between stages, in host memory or in files.

They are as the strips see them, so height and width are swapped where strips run along the width. Host memory is not
pinned, because torch rounds pinned memory up to a power of two; strips are, when a GPU reads them (`StripReader`). A
file is mapped into memory and removed from its folder at once; the system frees its blocks when the tensor is freed, or
when the process ends.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from streammodels.core.image_rows import TensorRows
from streammodels.core.tensors.memory_format import format_of

GlobalStatistics = Literal["host"]
"""Where the maps wait."""


@dataclass(frozen=True)
class Waiting:
    """Whether maps may wait, and where.

    Attributes:
        global_statistics: "host" if they may; None if not.
        spill_dir: Folder for their files; None for host memory.
    """

    global_statistics: GlobalStatistics | None = None
    spill_dir: str | PathLike[str] | None = None

    def __post_init__(self) -> None:
        if self.global_statistics not in (None, "host"):
            raise ValueError(f'global_statistics has to be "host" or None, got {self.global_statistics!r}')
        if self.spill_dir is None:
            return
        if not self.is_allowed:
            raise ValueError('spill_dir= is where maps wait with global_statistics="host". Pass that too.')
        if not Path(self.spill_dir).is_dir():
            raise ValueError(f"spill_dir={str(self.spill_dir)!r} is no folder. Make it, on a disk with space.")

    @property
    def is_allowed(self) -> bool:
        """Whether maps may wait."""
        return self.global_statistics is not None

    def maps(self, device: torch.device) -> WaitingMaps:
        """What makes memory for them; `device` computes."""
        return WaitingMaps(None if self.spill_dir is None else Path(self.spill_dir), device)


class WaitingMaps:
    """Makes tensors for maps that wait.

    Args:
        directory: Folder of the files; None for host memory.
        device: The device that computes.
    """

    def __init__(self, directory: Path | None, device: torch.device) -> None:
        self.directory = directory
        self.device = device

    def new(
        self, shape: Sequence[int], dtype: torch.dtype, memory_format: torch.memory_format = torch.contiguous_format
    ) -> Tensor:
        """A tensor of any content.

        Raises:
            OSError: If there is no space for its file, naming the folder.
        """
        if self.directory is None:
            return torch.empty(shape, dtype=dtype, memory_format=memory_format)
        # In place, since autograd adds no gradient to a view in place.
        mapped = _mapped_file(self.directory, torch.Size(shape).numel(), dtype)
        return mapped.resize_(*shape, memory_format=memory_format)


def _mapped_file(directory: Path, number: int, dtype: torch.dtype) -> Tensor:
    """A tensor in a file that has no name any more."""
    size = number * dtype.itemsize
    try:
        descriptor, name = tempfile.mkstemp(prefix="waiting-", suffix=".map", dir=directory)
        try:
            # Without space for it, a write to the mapped file would end the process.
            os.posix_fallocate(descriptor, 0, size)
            return torch.from_file(name, shared=True, size=number, dtype=dtype)
        finally:
            os.close(descriptor)
            os.unlink(name)
    except OSError as error:
        raise OSError(
            error.errno,
            f"a map of {size / 1e9:.3g} GB cannot wait in spill_dir={str(directory)!r}: {error.strerror}. Free space "
            "there, or pass another folder.",
        ) from error


class WaitingRows(TensorRows):
    """Rows of a map that waited.

    Args:
        waited: The map as the strips see it.
        name: Its name in error messages.
        sideways: Whether height and width are swapped in it.
        maps: Makes memory for its gradient.
    """

    def __init__(self, waited: Tensor, name: str, sideways: bool, maps: WaitingMaps) -> None:
        super().__init__(waited, name)
        self._maps = maps
        if sideways:
            batch, channels, width, height = self.shape
            self.shape = (batch, channels, height, width)

    def read(self, start: int, stop: int) -> Tensor:
        """A view of the map."""
        assert self.tensor is not None
        return self.tensor[:, :, start:stop]

    def new_grad(self) -> tuple[Tensor, Tensor]:
        """See `TensorRows.new_grad`."""
        assert self.tensor is not None
        grad = self._maps.new(self.tensor.shape, self.tensor.dtype, format_of(self.tensor))
        return grad, grad
