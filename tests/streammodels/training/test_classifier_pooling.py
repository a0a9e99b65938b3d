"""``pooling=`` of a StreamingResNet: same results as plain, trained with the head, found again in checkpoints."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torchvision import models

from streammodels import GatedAttention, GeM, PerClassLinear, StreamingClassifier, StreamingResNet

KEYS = {
    "avg": [],
    "max": [],
    "gem": ["p"],
    "lse": ["r"],
    "attention": [
        "tanh_branch.weight", "tanh_branch.bias", "sigmoid_branch.weight", "sigmoid_branch.bias", "score.weight",
    ],
}  # fmt: skip


def resnet(pooling: str | nn.Module, name: str = "resnet9", **options: Any) -> StreamingResNet:
    torch.manual_seed(4)
    return StreamingResNet(name, 64, weights=None, pooling=pooling, **options)


def gradients(model: StreamingResNet, image: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    logits = model(image)
    (logits * torch.tensor([1.0, -2.0], dtype=logits.dtype)).sum().backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return {"logits": logits.detach(), **found}


@pytest.mark.slow
@pytest.mark.parametrize("pooling", KEYS)
def test_streamed_equals_plain(pooling: str) -> None:
    model = resnet(pooling, train_streaming_layers=True).double()
    plain = resnet(pooling, train_streaming_layers=True, streaming=False).double()
    plain.load_state_dict(model.state_dict())
    image = torch.rand(2, 3, 133, 70, dtype=torch.float64)
    expected, actual = gradients(plain, image), gradients(model, image)
    assert expected.keys() == actual.keys()
    for name, value in expected.items():
        torch.testing.assert_close(actual[name], value, rtol=1e-9, atol=1e-12, msg=name)


@pytest.mark.parametrize("pooling", KEYS)
def test_state_dict_has_the_keys_of_torchvision_and_those_of_the_pool(pooling: str) -> None:
    with torch.device("meta"):
        keys, plain = set(resnet(pooling, "resnet18").state_dict()), models.resnet18(weights=None).state_dict()
    assert keys == {*plain, *(f"avgpool.{key}" for key in KEYS[pooling])}


def test_pool_is_trained_while_the_trunk_is_frozen() -> None:
    model = resnet("attention")
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {"fc.weight", "fc.bias", *(f"avgpool.{key}" for key in KEYS["attention"])}
    model.unfreeze_streaming_layers()
    assert all(p.requires_grad for p in model.parameters())
    model.freeze_streaming_layers()
    assert {name for name, p in model.named_parameters() if p.requires_grad} == trained


@pytest.mark.slow
def test_gradients_of_the_pool_behind_a_frozen_trunk_are_those_of_the_plain_network() -> None:
    model, image = resnet("attention").double(), torch.rand(1, 3, 133, 70, dtype=torch.float64)
    plain = resnet("attention", streaming=False).double()
    plain.load_state_dict(model.state_dict())
    expected, actual = gradients(plain, image), gradients(model, image)
    assert set(actual) == {"logits", "fc.weight", "fc.bias", *(f"avgpool.{key}" for key in KEYS["attention"])}
    for name, value in expected.items():
        torch.testing.assert_close(actual[name], value, rtol=1e-9, atol=1e-12, msg=name)


def test_pool_inside_the_trunk_of_any_classifier_is_trained_while_the_trunk_is_frozen() -> None:
    trunk = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), GatedAttention(4, 3, heads=2))
    model = StreamingClassifier(trunk, PerClassLinear(4, 2), tile_size=16, train_streaming_layers=False)
    model(torch.rand(1, 3, 30, 20)).sum().backward()
    assert {name for name, p in model.named_parameters() if p.grad is None} == {"trunk.0.weight", "trunk.0.bias"}


@pytest.mark.slow
def test_own_module_as_pool_is_given_again_to_load_a_checkpoint(tmp_path: Path) -> None:
    pool = nn.Sequential(nn.Conv2d(256, 256, 1, groups=256), nn.ReLU(), GeM(p=2.0))
    model = resnet(pool, optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1))
    data = DataLoader(TensorDataset(torch.rand(2, 3, 70, 50), torch.tensor([0, 1])), batch_size=1)
    trainer = Trainer(accelerator="cpu", devices=1, max_steps=2, logger=False, enable_progress_bar=False,
                      enable_model_summary=False, enable_checkpointing=False, default_root_dir=tmp_path)  # fmt: skip
    trainer.fit(model, data)
    assert pool[2].p.item() != 2.0
    trainer.save_checkpoint(tmp_path / "model.ckpt")
    loaded = StreamingResNet.load_from_checkpoint(tmp_path / "model.ckpt", pooling=copy.deepcopy(pool))
    image = torch.rand(1, 3, 70, 50)
    assert torch.equal(loaded.eval()(image), model.eval()(image))


def test_pool_with_another_number_of_features_is_refused() -> None:
    with pytest.raises(ValueError, match=r"makes 512 features of a map with 256 channels.*Use StreamingClassifier"):
        resnet(GatedAttention(256, heads=2))


def test_unknown_pool_names_those_there_are() -> None:
    with pytest.raises(ValueError, match="Choose one of avg, max, gem, lse, sum, softmax, attention, "):
        resnet("median")
