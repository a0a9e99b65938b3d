"""Networks are loaded from checkpoints and run folders, and nothing else is imported or unpickled."""

from pathlib import Path
from typing import Any

import pytest
import torch

from slidestream import load_trained
from slidestream.trained import CheckpointError


@pytest.mark.slow
def test_the_folder_of_a_run_stands_for_its_best_checkpoint(run: Path) -> None:
    trained = load_trained(run)
    assert trained.checkpoint == run / "checkpoints" / "best.ckpt"
    assert trained.class_names == ("normal", "tumor")
    assert trained.task == "multiclass"
    assert trained.geometry["resolution"] == {"mpp": 2.0}


def saved(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"state_dict": {}, "hyper_parameters": {}, "model_class": "os.system"}, "not imported on a file's word"),
        ({"conv1.weight": torch.zeros(1)}, "weights"),
        ([1, 2], "list"),
        (Path("x"), "is not unpickled"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, content: Any, said: str) -> None:
    with pytest.raises(CheckpointError, match=said):
        load_trained(saved(tmp_path / "a.ckpt", content))


def test_a_class_that_is_no_network_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.ckpt", {"state_dict": {}, "hyper_parameters": {}})
    with pytest.raises(CheckpointError, match="no LightningModule"):
        load_trained(path, "pathlib.Path")
    with pytest.raises(CheckpointError, match="cannot be imported"):
        load_trained(path, "nothing.Here")


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 cut off"])
def test_damaged_files_are_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.ckpt").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"a\.ckpt"):
        load_trained(tmp_path / "a.ckpt")
