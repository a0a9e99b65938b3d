"""ResNets: which there are, their pretrained weights, and what to do when those cannot be had.

The networks are torchvision's own (He et al. 2016, https://arxiv.org/abs/1512.03385), and so are the names of their
parameters.
"""

from __future__ import annotations

import logging
import urllib.error
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision import models

_LOGGER = logging.getLogger(__name__)

RESNETS = ("resnet18", "resnet34", "resnet50")
"""Names that `build_resnet` knows."""

_IMAGENET_CLASSES = 1000


class WeightsUnavailableError(RuntimeError):
    """Pretrained weights could not be downloaded or read; the message names the alternatives."""


def build_resnet(model_name: str, num_classes: int, weights: str | Path | None, in_channels: int = 3) -> models.ResNet:
    """A torchvision ResNet with the weights asked for.

    Args:
        model_name: One of `RESNETS`.
        num_classes: Outputs of the classifier. A classifier of another size in the weights is left out, and said.
        weights: "DEFAULT" or another name of torchvision's weights for the model, a path to a state dict, or None for
            random ones.
        in_channels: Channels of the image. For other than 3, the first convolution of pretrained weights gets the mean
            over its channels, repeated, and scaled by 3 / in_channels to keep its output's size.

    Raises:
        ValueError: If the model or the weights are not known, or do not fit the model.
        WeightsUnavailableError: If they cannot be downloaded.
    """
    if model_name not in RESNETS:
        raise ValueError(f"model_name '{model_name}' is not known. Choose one of {', '.join(RESNETS)}.")
    # Residual branches that start at zero keep the activations' size through all blocks, which frozen batch
    # normalisation with random weights would not: https://arxiv.org/abs/1706.02677, section 5.1.
    network: models.ResNet = getattr(models, model_name)(num_classes=num_classes, zero_init_residual=weights is None)
    if in_channels != 3:
        network.conv1 = nn.Conv2d(in_channels, network.conv1.out_channels, 7, stride=2, padding=3, bias=False)
        nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")
    if weights is not None:
        state = _fit_state(_read_weights(model_name, weights), network, in_channels)
        _load(network, state, model_name, weights)
    return network


def _read_weights(model_name: str, weights: str | Path) -> dict[str, Tensor]:
    """The state dict behind a name of torchvision's, or in a file."""
    known = models.get_model_weights(model_name)
    names = [entry.name for entry in known]
    if str(weights) == "DEFAULT" or str(weights) in names:
        chosen = known["DEFAULT" if str(weights) == "DEFAULT" else str(weights)]
        try:
            state: dict[str, Tensor] = chosen.get_state_dict(progress=True, check_hash=True)
        except (urllib.error.URLError, OSError, RuntimeError) as error:
            folder = Path(torch.hub.get_dir()) / "checkpoints"
            raise WeightsUnavailableError(
                f"weights '{weights}' of {model_name} could not be downloaded from {chosen.url} ({error}). "
                f"Put that file into {folder}, give weights='path/to/state_dict.pth', or start from random weights "
                "with weights=None."
            ) from error
        return state
    path = Path(weights).expanduser()
    if not path.is_file():
        raise ValueError(
            f"weights '{weights}': no such file, and {model_name} has no weights of that name. "
            f"Give a path to a state dict, one of {', '.join(['DEFAULT', *names])}, or None."
        )
    return _read_file(path)


def _read_file(path: Path) -> dict[str, Tensor]:
    """A state dict from a file: bare, or inside a Lightning checkpoint."""
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = f"weights '{path}' could not be read as a state dict ({error})"
        raise WeightsUnavailableError(f"{reason}. Save it again with torch.save(model.state_dict(), path).") from error
    state = content.get("state_dict", content) if isinstance(content, dict) else None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"weights '{path}' hold no state dict. Save one with torch.save(model.state_dict(), path).")
    return state


def _fit_state(state: dict[str, Tensor], network: models.ResNet, in_channels: int) -> dict[str, Tensor]:
    """Leave out a classifier of another size, and adapt the first convolution to the image's channels."""
    state = dict(state)
    classifier = state.get("fc.weight")
    if classifier is None or classifier.shape != network.fc.weight.shape:
        found = "no classifier" if classifier is None else f"a classifier of {classifier.shape[0]} classes"
        _LOGGER.warning("The weights have %s; a new one of %d classes takes its place.", found, network.fc.out_features)
        state["fc.weight"], state["fc.bias"] = network.fc.weight.detach(), network.fc.bias.detach()
    stem = state.get("conv1.weight")
    if stem is not None and stem.ndim == 4 and stem.shape[1] != in_channels:
        scale = stem.shape[1] / in_channels
        state["conv1.weight"] = stem.mean(dim=1, keepdim=True).repeat(1, in_channels, 1, 1) * scale
    return state


def _load(network: models.ResNet, state: dict[str, Tensor], model_name: str, weights: str | Path) -> None:
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        remedy = "Choose the model_name the weights were made with; keys have to be those of torchvision's ResNet."
        raise ValueError(f"weights '{weights}' do not fit {model_name}: {error}. {remedy}") from error


def freeze_batch_norm(module: nn.Module) -> nn.Module:
    """Put every batch normalisation into eval mode, so that it uses its running statistics.

    ``module.train()`` undoes it; a `StreamingClassifier` calls this again by itself. Scale and shift stay trainable.

    Returns:
        The module itself.
    """
    for layer in module.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            layer.eval()
    return module
