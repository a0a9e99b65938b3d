"""Trained networks in folders: the same network again, and nothing that names an image or a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from streammodels import GeM, ModelCard, StreamingClassifier, StreamingNetwork, StreamingResNet, WeightsUnavailableError
from streammodels.training.pretrained import PretrainedError, read_pretrained, repo_of

MEMORY: dict[str, Any] = {
    "split": {"train": ["secret_1"], "val": ["secret_2"], "test": []},
    "digest": "ab" * 32,
    "skipped": ["secret_3"],
    "class_names": ["normal", "tumor | any"],
    "stats": json.dumps({"mean": [0.5], "std": [0.1], "digest": "cd", "skipped": [["secret_3", "/data/secret_3.svs"]]}),
    "geometry": {"kind": "slides", "resolution": {"mpp": 0.5}, "crop": None},
}


def resnet(**options: Any) -> StreamingResNet:
    torch.manual_seed(0)
    model = StreamingResNet("resnet9", weights=None, tile_size=64, **options)
    model.trained_on = MEMORY
    return model.eval()


def test_the_same_network_is_read_back(tmp_path: Path) -> None:
    model = resnet(pooling="gem", in_channels=4, task="multilabel")
    model.save_pretrained(tmp_path / "new" / "folder")
    read = StreamingClassifier.from_pretrained(tmp_path / "new" / "folder", memory="1GB")
    assert type(read) is StreamingResNet
    assert not read.training
    assert read.task.name == "multilabel"
    image = torch.rand(1, 4, 70, 50)
    assert torch.equal(read(image), model(image))
    assert read.trained_on is not None
    assert read.trained_on["class_names"] == MEMORY["class_names"]
    assert read.trained_on["geometry"] == MEMORY["geometry"]
    with pytest.raises(PretrainedError, match="which is no StreamingNetwork"):
        StreamingNetwork.from_pretrained(tmp_path / "new" / "folder")


def test_no_image_is_named_and_the_card_says_how_to_predict(tmp_path: Path) -> None:
    card = ModelCard("Tumor or not", "cc-by-4.0", "H&E, one scanner.", {"test AUROC": 0.9312})
    resnet().save_pretrained(tmp_path, card)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    assert not any(b"secret" in path.read_bytes() for path in tmp_path.iterdir())
    text = (tmp_path / "README.md").read_text()
    for said in ("# Tumor or not", "license: cc-by-4.0", "H&E", "0.9312", "tumor \\| any", "{'mpp': 0.5}", "ab" * 32):
        assert said in text
    assert "StreamingClassifier.from_pretrained" in text


class Mine(StreamingResNet):
    def __init__(self, data: Any = None) -> None:
        super().__init__("resnet9", weights=None, tile_size=64)
        self.save_hyperparameters({"data": data})


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("/slides/anna", r"hyperparameters\.data would publish '/slides/anna'"),
        ({"C:\\slides\\a": 1}, "a key of hyperparameters.data"),
        ("Stain(reference='~/ref')", "names a file"),
        (["cohort/case_7.svs"], r"data\[0\]"),
        (Path("relative"), "names a file"),
        (torch.zeros(2), "no plain value, but a Tensor"),
    ],
)
def test_what_names_a_file_is_refused(data: Any, said: str, tmp_path: Path) -> None:
    with pytest.raises(PretrainedError, match=said):
        Mine(data).save_pretrained(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_networks_that_cannot_be_made_again_are_refused(tmp_path: Path) -> None:
    bare = StreamingClassifier(nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1)), nn.Linear(4, 2))
    with pytest.raises(PretrainedError, match="keeps no hyperparameters"):
        bare.save_pretrained(tmp_path)
    with pytest.raises(PretrainedError, match="do not make it again"):
        resnet(pooling=GeM()).save_pretrained(tmp_path)
    headless = resnet()
    headless.fc = nn.Linear(256, 7)
    with pytest.raises(PretrainedError, match="do not make it again"):
        headless.save_pretrained(tmp_path)


def test_classes_of_others_are_not_imported_on_a_files_word(tmp_path: Path) -> None:
    resnet().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for named in ("os.path.join", "streammodels.os", "streammodels.streaming.StreamedModule"):
        (tmp_path / "config.json").write_text(json.dumps(config | {"model_class": named}))
        with pytest.raises(PretrainedError, match="which is no StreamingClassifier"):
            StreamingClassifier.from_pretrained(tmp_path)


def test_other_and_damaged_folders_say_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(PretrainedError, match="holds no network of slidestream"):
        read_pretrained(tmp_path)
    resnet().save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(WeightsUnavailableError, match="cannot be read"):
        read_pretrained(tmp_path)
    (tmp_path / "config.json").write_text('{"architectures": ["ViT"]}')
    with pytest.raises(PretrainedError, match=r"holds no network of slidestream.*save_pretrained"):
        read_pretrained(tmp_path)


def test_addresses_of_the_hub_are_recognized() -> None:
    assert repo_of("hf://me/net") == repo_of(Path("hf://me/net")) == "me/net"
    assert repo_of("runs/best.ckpt") is None
    assert repo_of("hf://net") is None
