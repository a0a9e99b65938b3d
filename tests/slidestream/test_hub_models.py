"""Networks on the Hub, each step in a process of its own: pushed after training, loaded by name."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from places import ROOT

sys.path.insert(0, str(ROOT / "tests" / "wsidata" / "hub"))  # where `local_hub` is

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("huggingface_hub") is None, reason="it needs slidestream[hub]"),
]

PUSH = """
import torch
from streammodels import StreamingResNet
torch.manual_seed(0)
model = StreamingResNet("resnet9", weights=None, tile_size=64).eval()
model.trained_on = {"split": {"train": ["secret"]}, "digest": "ab", "class_names": ["normal", "tumor"],
                    "skipped": [], "stats": None, "geometry": {"kind": "slides"}}
print(model.push_to_hub("tester/net"))
print(model(torch.ones(1, 3, 64, 64)).tolist())
"""
LOAD = """
import torch
from slidestream.trained import CheckpointError, load_trained
trained = load_trained("hf://tester/net")
print(trained.class_names, trained.geometry, trained.checkpoint.name)
print(trained.model(torch.ones(1, 3, 64, 64)).tolist())
try:
    load_trained("hf://tester/other")
except CheckpointError as error:
    print("REFUSED", error)
"""


def test_a_pushed_network_is_loaded_by_its_name(tmp_path: Path) -> None:
    from local_hub import LocalHub  # type: ignore[import-not-found]

    with LocalHub(tmp_path / "hub") as hub:
        pushed = hub.python(PUSH)
        assert pushed.returncode == 0, pushed.stderr
        commit, output = pushed.stdout.split("\n")[:2]
        repository = hub.repository("tester/net")
        assert repository["private"]
        assert set(repository["files"]["main"]) >= {"README.md", "config.json", "model.safetensors"}
        loaded = hub.python(LOAD)
        assert loaded.returncode == 0, loaded.stderr
        assert "Traceback" not in hub.errors()
    facts, again, refused = loaded.stdout.strip().split("\n")
    assert facts == f"('normal', 'tumor') {{'kind': 'slides'}} tester--net-{commit.rpartition('/')[2]}.ckpt"
    assert again == output
    assert refused.startswith("REFUSED hf://tester/other: ")
    assert "Check the name" in refused
