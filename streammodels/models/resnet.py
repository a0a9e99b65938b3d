"""ResNets by name, with pretrained weights, and batch normalization that stays frozen.

Networks and parameter names are torchvision's (He et al. 2016, https://arxiv.org/abs/1512.03385; ResNeXt: Xie et al.
2017, https://arxiv.org/abs/1611.05431; Wide ResNet: Zagoruyko and Komodakis 2016, https://arxiv.org/abs/1605.07146),
except for ResNet-9, see `resnet9.py`.
"""

from __future__ import annotations

import urllib.error
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import nn
from torchvision import models

from streammodels.models.resnet9 import ResNet9
from streammodels.models.weights import State, WeightsUnavailableError, load_weights, read_weights

ResNet: TypeAlias = models.ResNet | ResNet9

RESNETS = (
    "resnet9", "resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "wide_resnet50_2", "wide_resnet101_2",
    "resnext50_32x4d", "resnext101_32x8d", "resnext101_64x4d",
)  # fmt: skip
"""Model names for `build_resnet`."""

_SQUEEZING = ("efficientnet", "mobilenet_v3", "regnet_y", "seresne", "se_resne", "senet")


_RENAMED = [{"conv1": "0", "bn1": "1", "layer1": "4", "layer2": "5", "layer3": "6", "layer4": "7"}]
"""Names in ``nn.Sequential(*resnet.children())``, as many feature extractors are saved."""


def build_resnet(
    model_name: str,
    num_classes: int,
    weights: str | Path | None,
    in_channels: int = 3,
    remove_last_stage: bool = False,
) -> ResNet:
    """A ResNet with random or pretrained weights.

    Args:
        model_name: One of `RESNETS`.
        num_classes: Outputs of the classifier. A classifier of another size in the weights is replaced, with a warning.
        weights: "DEFAULT" or another name of torchvision's weights for the model, a path to a state dict, or None for
            random weights.
        in_channels: Channels of the image. Unless it is 3, the first convolution of pretrained weights is averaged over
            its channels, repeated, and scaled by 3 / in_channels to keep the magnitude of its output.
        remove_last_stage: Whether to leave out the last stage of residual blocks, which holds most of the weights; the
            stride of the feature map halves. An `Identity` takes its name; the classifier reads the stage before it.

    Raises:
        ValueError: If the model or the weights are unknown, or the weights do not fit the model.
        WeightsUnavailableError: If the weights cannot be downloaded or read.
    """
    _check_arguments(model_name, num_classes, in_channels)
    state = None if weights is None else published_weights(model_name, weights)
    # Zero-initialized residual branches preserve the magnitude of activations through all blocks, which frozen batch
    # normalization with random weights would not: https://arxiv.org/abs/1706.02677, section 5.1.
    make = ResNet9 if model_name == "resnet9" else getattr(models, model_name)
    network: ResNet = make(num_classes=num_classes, zero_init_residual=weights is None)
    if in_channels != 3:
        network.conv1 = nn.Conv2d(in_channels, network.conv1.out_channels, 7, stride=2, padding=3, bias=False)
        nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")
    removed = _remove_last_stage(network) if remove_last_stage else None
    if state is not None:
        load_weights(network, state, head="fc", source=weights, name=model_name, renamed=_RENAMED, left_out=removed)
    return network


def _check_arguments(model_name: str, num_classes: int, in_channels: int) -> None:
    if model_name not in RESNETS:
        hint = "Any other network trains as StreamingClassifier(trunk, head)."
        if model_name.lower().startswith(_SQUEEZING):
            hint = (
                "It has squeeze-and-excitation layers, which scale every row of a map by a global pool, so no network "
                "of that family can be streamed exactly."
            )
        raise ValueError(f"model_name '{model_name}' is not known. Choose one of {', '.join(RESNETS)}. {hint}")
    for name, value in (("num_classes", num_classes), ("in_channels", in_channels)):
        if value < 1:
            raise ValueError(f"{name} has to be at least 1, got {value}")


def _remove_last_stage(network: ResNet) -> str:
    """Replace the last stage by an `Identity` and adapt the classifier; returns the stage's name."""
    stages = [name for name, _ in network.named_children() if name.startswith("layer")]
    norms = [layer for layer in network.get_submodule(stages[-2]).modules() if isinstance(layer, nn.BatchNorm2d)]
    setattr(network, stages[-1], nn.Identity())
    network.fc = nn.Linear(norms[-1].num_features, network.fc.out_features)
    return stages[-1]


def published_weights(model_name: str, weights: str | Path) -> State:
    """The state dict that torchvision publishes under a name, or that of a file.

    Args:
        model_name: Name of a network of torchvision, or "resnet9".
        weights: "DEFAULT", another name of torchvision's weights for it, or a path.

    Raises:
        ValueError: If there is neither.
        WeightsUnavailableError: If they cannot be downloaded or read.
    """
    known: Any = [] if model_name == "resnet9" else models.get_model_weights(model_name)
    names = [entry.name for entry in known]
    if names and str(weights) in ("DEFAULT", *names):
        chosen = known[str(weights)]
        try:
            state: State = chosen.get_state_dict(progress=True, check_hash=True)
        except (urllib.error.URLError, OSError, RuntimeError) as error:
            folder = Path(torch.hub.get_dir()) / "checkpoints"
            raise WeightsUnavailableError(
                f"weights '{weights}' of {model_name} could not be downloaded from {chosen.url} ({error}). "
                f"Put that file into {folder}, pass weights='path/to/state_dict.pth', or start from random weights "
                "with weights=None."
            ) from error
        return state
    if not names and str(weights) == "DEFAULT":
        raise ValueError(
            f"{model_name} has no pretrained weights to download. Pass weights=None to start from random ones, or "
            "weights='path/to/state_dict.pth'."
        )
    path = Path(weights).expanduser()
    if not path.is_file():
        remedy = f"one of {', '.join(['DEFAULT', *names])}, or None" if names else "or weights=None for random ones"
        raise ValueError(
            f"weights '{weights}': no such file, and {model_name} has no weights of that name in torchvision. "
            f"Give a path to a state dict, {remedy}."
        )
    return read_weights(path)


def freeze_batch_norm(module: nn.Module) -> nn.Module:
    """Put every batch normalization layer into eval mode, so that it uses its running statistics.

    Scale and shift stay trainable. ``module.train()`` undoes it, except in a `StreamingClassifier`.

    Returns:
        The module itself.
    """
    for layer in module.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            layer.eval()
    return module
