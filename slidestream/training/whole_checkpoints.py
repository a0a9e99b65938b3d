"""Checkpoints that are written whole or not at all, whatever file system they are on."""

from __future__ import annotations

import pickle
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from lightning import Trainer
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy

from slidestream.trained import read_checkpoint
from wsidata.utils.files import atomic_write


class WholeCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside the one it replaces, and then puts it in its place.

    Lightning's own way writes to the folder of temporary files and moves from there. Where that is another file system,
    as on most clusters, the move is a copy: a full disk, or the end of a job, leaves half a checkpoint instead of the
    one of the epoch before.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Save a checkpoint.

        Raises:
            OSError: if the disk is full; a file that was there is as it was.
        """
        if "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        content = BytesIO()  # torch's own writer hides why it fails
        torch.save(checkpoint, content)
        with atomic_write(path) as part:
            part.write_bytes(content.getbuffer())

    def load_checkpoint(self, path: Any, *arguments: Any, **options: Any) -> Any:
        """Load a checkpoint.

        Raises:
            CheckpointError: if it is cut off, or something else.
        """
        try:
            content = super().load_checkpoint(path, *arguments, **options)
        except (RuntimeError, EOFError, KeyError, ValueError, pickle.UnpicklingError):
            read_checkpoint(Path(path))  # says what it is
            raise
        return content if "state_dict" in content else read_checkpoint(Path(path))


def write_whole(trainer: Trainer) -> None:
    """Have a Trainer write such checkpoints, unless it has a way of its own, as sharded ones have."""
    strategy = trainer.strategy
    if isinstance(strategy, (SingleDeviceStrategy, DDPStrategy)) and type(strategy.checkpoint_io) is TorchCheckpointIO:
        strategy.checkpoint_io = WholeCheckpointIO()
