"""A checkpoint that cannot be written leaves the one before as it was."""

from pathlib import Path

import pytest
import torch
from lightning import Trainer

from slidestream.trained import CheckpointError
from slidestream.training.whole_checkpoints import WholeCheckpointIO, write_whole


def test_half_a_checkpoint_does_not_replace_a_whole_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    write_whole(trainer)
    saving = trainer.strategy.checkpoint_io
    assert isinstance(saving, WholeCheckpointIO)
    path = tmp_path / "checkpoints" / "last.ckpt"
    saving.save_checkpoint({"epoch": 1, "state_dict": {}}, path)

    def fill_disk(part: Path, content: object) -> None:
        part.write_text("half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", fill_disk)
    with pytest.raises(OSError, match="No space left"):
        saving.save_checkpoint({"epoch": 2}, path)
    assert torch.load(path, weights_only=True) == {"epoch": 1, "state_dict": {}}
    assert saving.load_checkpoint(path)["epoch"] == 1
    assert [one.name for one in path.parent.iterdir()] == ["last.ckpt"]
    monkeypatch.undo()
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(CheckpointError, match="cut off"):
        saving.load_checkpoint(path)
