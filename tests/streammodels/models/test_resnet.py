"""ResNets: weights that can be had, that cannot, and that do not fit."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision import models
from torchvision.models.resnet import BasicBlock, Bottleneck

from streammodels import freeze_batch_norm
from streammodels.models.resnet import RESNETS, WeightsUnavailableError, build_resnet


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder of downloaded weights, and no network."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


@pytest.mark.slow
def test_default_weights_are_read_from_the_local_folder(hub: Path, caplog: pytest.LogCaptureFixture) -> None:
    state = models.resnet18(weights=None).state_dict()
    torch.save(state, hub / "resnet18-f37072fd.pth")
    with caplog.at_level(logging.WARNING):
        network = build_resnet("resnet18", 2, "DEFAULT")
    assert torch.equal(network.layer4[1].conv2.weight, state["layer4.1.conv2.weight"])
    assert network.fc.out_features == 2
    said = [r.getMessage() for r in caplog.records if "1000 classes" in r.getMessage()]
    assert len(said) == 1
    assert "2 classes" in said[0]
    assert torch.equal(build_resnet("resnet18", 1000, "IMAGENET1K_V1").fc.weight, state["fc.weight"])


def test_failed_download_names_the_alternatives(hub: Path) -> None:
    with pytest.raises(WeightsUnavailableError, match=r"resnet18-f37072fd\.pth") as caught:
        build_resnet("resnet18", 2, "DEFAULT")
    message = str(caught.value)
    assert "weights=None" in message
    assert str(hub) in message
    assert "weights='" in message


@pytest.mark.slow
def test_weights_from_a_path(tmp_path: Path) -> None:
    source = models.resnet18(num_classes=5)
    torch.save(source.state_dict(), tmp_path / "mine.pth")
    for weights in (tmp_path / "mine.pth", str(tmp_path / "mine.pth")):
        network = build_resnet("resnet18", 5, weights)
        assert all(torch.equal(a, b) for a, b in zip(network.parameters(), source.parameters(), strict=True))


def test_weights_from_a_lightning_checkpoint(tmp_path: Path) -> None:
    source = models.resnet18(num_classes=2)
    torch.save({"state_dict": source.state_dict(), "epoch": 3}, tmp_path / "mine.ckpt")
    assert torch.equal(build_resnet("resnet18", 2, tmp_path / "mine.ckpt").fc.weight, source.fc.weight)


@pytest.mark.parametrize("weights", ["no/such/file.pth", "IMAGENET9K", ""])
def test_unknown_weights_are_refused_with_the_known_names(weights: str) -> None:
    with pytest.raises(ValueError, match="DEFAULT, IMAGENET1K_V1"):
        build_resnet("resnet18", 2, weights)


@pytest.mark.slow
def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    torch.save(models.resnet18(num_classes=2).state_dict(), tmp_path / "18.pth")
    with pytest.raises(ValueError, match=r"(?s)do not fit resnet34.*Choose the model_name"):
        build_resnet("resnet34", 2, tmp_path / "18.pth")


@pytest.mark.parametrize("content", [b"no checkpoint at all", b""])
def test_unreadable_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.pth").write_bytes(content)
    with pytest.raises(WeightsUnavailableError, match=r"bad\.pth.*could not be read"):
        build_resnet("resnet18", 2, tmp_path / "bad.pth")


def test_file_without_state_dict_is_refused(tmp_path: Path) -> None:
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(ValueError, match="hold no state dict"):
        build_resnet("resnet18", 2, tmp_path / "list.pth")


def test_unknown_model_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'resnet20' is not known.*resnet18, resnet34, resnet50.*StreamingClassifier"):
        build_resnet("resnet20", 2, None)


@pytest.mark.parametrize("name", ["efficientnet_b3", "EfficientNet_v2_s", "mobilenet_v3_large", "regnet_y_400mf"])
def test_squeezing_networks_are_refused_by_name_and_reason(name: str) -> None:
    with pytest.raises(ValueError, match=rf"'{name}'.*squeeze-and-excitation"):
        build_resnet(name, 2, None)


@pytest.mark.parametrize(("classes", "channels"), [(0, 3), (2, 0), (-1, 3)])
def test_sizes_below_one_are_refused(classes: int, channels: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        build_resnet("resnet18", classes, None, channels)


def test_every_resnet_of_torchvision_is_known() -> None:
    listed = {name for name in models.list_models() if name.startswith(("resnet", "resnext", "wide_resnet"))}
    assert {name for name in listed if hasattr(models, name)} == set(RESNETS) - {"resnet9"}


@pytest.mark.parametrize("name", sorted(set(RESNETS) - {"resnet9"}))
def test_names_of_published_weights_are_known(name: str, hub: Path) -> None:
    with pytest.raises(WeightsUnavailableError, match=rf"{name}-[0-9a-f]+\.pth"):
        build_resnet(name, 2, "DEFAULT")


# ---------------------------------------------------------------- ResNet-9


def test_resnet9_is_as_documented() -> None:
    network = build_resnet("resnet9", 3, None)
    weighted = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    assert len(weighted) == 9
    assert 1.64e6 < sum(parameter.numel() for parameter in network.parameters()) < 1.66e6
    shapes = {}
    for name, layer in network.named_children():
        layer.register_forward_hook(lambda _, __, out, name=name: shapes.update({name: tuple(out.shape[1:])}))
    with FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, 3, 256, 256))
    assert shapes["conv1"] == (32, 128, 128)
    assert shapes["layer1"] == (64, 32, 32)
    assert shapes["layer2"] == (128, 16, 16)
    assert shapes["layer3"] == (256, 8, 8)
    assert shapes["fc"] == (3,)
    assert counter.get_total_flops() / 2 / 256**2 == pytest.approx(4300, rel=0.02)


def test_resnet9_has_no_published_weights() -> None:
    with pytest.raises(ValueError, match=r"resnet9 has no pretrained weights.*weights=None"):
        build_resnet("resnet9", 2, "DEFAULT")


def test_resnet9_loads_its_own_state(tmp_path: Path) -> None:
    source = build_resnet("resnet9", 3, None)
    torch.save(source.state_dict(), tmp_path / "nine.pth")
    twin = build_resnet("resnet9", 3, tmp_path / "nine.pth")
    assert all(torch.equal(a, b) for a, b in zip(source.parameters(), twin.parameters(), strict=True))


@pytest.mark.slow
def test_residual_branches_of_random_networks_start_at_zero() -> None:
    for name in ("resnet9", "resnet18", "resnet50"):
        blocks = [
            layer for layer in build_resnet(name, 2, None).modules() if isinstance(layer, BasicBlock | Bottleneck)
        ]
        last = [block.bn3 if isinstance(block, Bottleneck) else block.bn2 for block in blocks]
        assert blocks
        assert not any(norm.weight.any() for norm in last)


# ---------------------------------------------------------------- without the last stage


@pytest.mark.parametrize(
    ("name", "stage", "features"),
    [("resnet9", "layer3", 128), ("resnet18", "layer4", 256), ("resnext50_32x4d", "layer4", 1024)],
)
def test_last_stage_can_be_left_out(name: str, stage: str, features: int) -> None:
    network = build_resnet(name, 2, None, remove_last_stage=True)
    assert isinstance(network.get_submodule(stage), nn.Identity)
    assert network.fc.in_features == features
    assert network(torch.zeros(1, 3, 64, 64)).shape == (1, 2)
    assert not [key for key in network.state_dict() if key.startswith(stage)]


@pytest.mark.slow
def test_weights_of_the_whole_network_serve_without_the_last_stage(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = models.resnet18(num_classes=2)
    torch.save(source.state_dict(), tmp_path / "whole.pth")
    with caplog.at_level(logging.WARNING):
        network = build_resnet("resnet18", 2, tmp_path / "whole.pth", remove_last_stage=True)
    assert torch.equal(network.layer3[1].conv2.weight, source.layer3[1].conv2.weight)
    assert "2 classes on 512 features" in caplog.text
    torch.save(network.state_dict(), tmp_path / "short.pth")
    build_resnet("resnet18", 2, tmp_path / "short.pth", remove_last_stage=True)
    with pytest.raises(ValueError, match="do not fit resnet18"):
        build_resnet("resnet18", 2, tmp_path / "short.pth")


def test_other_channels_adapt_the_first_convolution(tmp_path: Path) -> None:
    source = models.resnet18(num_classes=2)
    torch.save(source.state_dict(), tmp_path / "mine.pth")
    stem = build_resnet("resnet18", 2, tmp_path / "mine.pth", in_channels=6).conv1
    assert stem.weight.shape == (64, 6, 7, 7)
    gray = torch.rand(1, 1, 20, 20)
    expected = source.conv1(gray.expand(-1, 3, -1, -1))
    torch.testing.assert_close(stem(gray.expand(-1, 6, -1, -1)), expected, rtol=1e-4, atol=1e-5)


def test_freeze_batch_norm_leaves_the_rest_in_training() -> None:
    network = nn.Sequential(nn.BatchNorm2d(2), nn.Dropout(), nn.Sequential(nn.BatchNorm1d(2)))
    assert freeze_batch_norm(network) is network
    assert [layer.training for layer in network.modules()] == [True, False, True, True, False]
    assert all(parameter.requires_grad for parameter in network.parameters())
