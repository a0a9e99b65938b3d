"""`StreamingClassifier.from_timm` and `StreamingConvNeXt`: networks by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch

from streammodels import StreamingClassifier, StreamingConvNeXt, StreamingNetwork, StreamingResNet
from streammodels.models.networks import build_network


class OwnNetwork(StreamingNetwork):
    """A class of a user."""


@pytest.mark.slow
def test_networks_of_timm_by_name_stream_with_their_own_normalization(tmp_path: Path) -> None:
    plain = timm.create_model("test_efficientnet", num_classes=3).eval()  # with squeeze-and-excitation
    torch.save(plain.state_dict(), tmp_path / "own.pth")
    options: dict[str, Any] = {"num_classes": 3, "weights": tmp_path / "own.pth", "tile_size": 40}
    model = StreamingClassifier.from_timm("test_efficientnet", global_statistics="host", **options).eval()
    assert type(model) is StreamingNetwork
    mean, std = (torch.tensor(plain.pretrained_cfg[key]).reshape(3, 1, 1) for key in ("mean", "std"))
    image = torch.rand(2, 3, 83, 61)
    with torch.no_grad():
        torch.testing.assert_close(model(image), plain((image - mean) / std), rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match='global_statistics="host"'):
        StreamingClassifier.from_timm("test_efficientnet", **options)
    with pytest.raises(ValueError, match="Similar ones are"):
        StreamingClassifier.from_timm("test_efficientnets", pretrained=False)


def test_a_class_of_ones_own_is_made_by_name_if_it_derives_from_streaming_network() -> None:
    model = OwnNetwork.from_timm("timm/test_resnet", 4, pretrained=False, pooling="gem")
    assert type(model) is OwnNetwork
    assert model.hparams["mean"] == model.hparams["std"] == [0.5] * 3  # of its weights, not ImageNet's
    assert model(torch.zeros(1, 3, 64, 50, dtype=torch.uint8)).shape == (1, 4)
    with pytest.raises(TypeError, match="derive the class from StreamingNetwork"):
        StreamingResNet.from_timm("resnet18")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dpn48b", "starnet_s050", "convformer_s18"])  # classifiers: 1x1, subclass, several
def test_classifiers_of_other_kinds_become_the_head_with_their_weights(name: str, tmp_path: Path) -> None:
    plain = timm.create_model(name, num_classes=3).eval()
    torch.save(plain.state_dict(), tmp_path / "own.pth")
    built = build_network(f"timm/{name}", 3, tmp_path / "own.pth")
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        features = built.trunk.eval()(image).flatten(1)
        torch.testing.assert_close(built.head(features), plain(image), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_convnexts_are_of_torchvision_or_timm_and_load_again(tmp_path: Path) -> None:
    model = StreamingConvNeXt("convnext_atto", 64, num_classes=3, weights=None).eval()
    assert dict(model.hparams)["model_name"] == "convnext_atto"
    model.save_pretrained(tmp_path)
    loaded = StreamingConvNeXt.from_pretrained(tmp_path)
    assert type(loaded) is StreamingConvNeXt
    image = torch.rand(1, 3, 70, 64)
    with torch.no_grad():
        assert torch.equal(loaded(image), model(image))
    with torch.device("meta"):
        torchvisions, timms = (
            StreamingConvNeXt(name, weights=None) for name in ("convnext_tiny", "timm/convnext_tiny")
        )
    assert "trunk.network.features.0.0.weight" in torchvisions.state_dict()
    assert "trunk.network.stem.0.weight" in timms.state_dict()
    with pytest.raises(ValueError, match="is no ConvNeXt"):
        StreamingConvNeXt("resnet18")
