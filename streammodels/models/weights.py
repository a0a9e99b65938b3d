"""Weight files as people have them, fitted to a network without leaving any of its trunk random.

Names in a file may be those of the network behind any prefix, such as ``module.backbone.``, and the state dict may lie
inside of others. What fits in one way only is loaded; all else raises, naming what was found.
"""

from __future__ import annotations

import logging
import pickle
import re
from argparse import Namespace
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

_LOGGER = logging.getLogger(__name__)

State = dict[str, Tensor]

_CONTAINERS = (
    "state_dict", "model_state_dict", "model_state", "model", "network", "net", "module", "teacher", "student",
    "encoder", "backbone", "weights", "params",
)  # fmt: skip
"""Keys that a state dict lies under; the first that is there counts. DINO's own evaluation takes the teacher."""

_WRAPPERS = re.compile(r"(?<![^.])(_orig_mod|_checkpoint_wrapped_module|_fsdp_wrapped_module)\.")
"""What torch.compile, activation checkpointing and FSDP put into names, at any depth."""

_OLD_DENSENET = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12])(?=\.)")
_FIRST_OF_TWO = (("teacher.", "student."), ("encoder_q.", "encoder_k."), ("base_encoder.", "momentum_encoder."))
"""Parts of prefixes of two networks in one file, of which the first is the one that is used after pretraining."""

_HEADS = re.compile(r"(?:.*\.)?(?:fc|head|classifier|last_linear|linear)(?:\.\d+)?\.weight")
_COUNTER = "num_batches_tracked"  # of no effect in a network that has momentum, and missing in files before torch 0.4.1


class WeightsUnavailableError(RuntimeError):
    """Pretrained weights could not be downloaded or read; the message lists the alternatives."""


# -- reading -----------------------------------------------------------------------------------------------------------


def read_weights(path: Path) -> State:
    """The state dict in a file of torch.save or safetensors, bare or inside of a checkpoint.

    Nothing but tensors and plain values is loaded, so that no file can run code.

    Raises:
        WeightsUnavailableError: If the file cannot be read.
        ValueError: If it holds no state dict.
    """
    with path.open("rb") as file:
        start = file.read(64)
    if start[8:9] == b"{":
        return _read_safetensors(path)
    try:
        with torch.serialization.safe_globals([Namespace]):  # plain values, which many training scripts save
            content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise WeightsUnavailableError(f"weights '{path}' could not be read as a state dict: {_why(error, path, start)}"
                                      ) from error  # fmt: skip
    state = _unwrapped(content)
    if state is None:
        found = f"a dict of {', '.join(map(str, list(content)[:8]))}" if isinstance(content, dict) else type(content)
        raise ValueError(
            f"weights '{path}' hold no state dict, but {found}. Save one with torch.save(model.state_dict(), path)."
        )
    return state


def _read_safetensors(path: Path) -> State:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError as error:
        raise ImportError(
            f"weights '{path}' need the library safetensors: pip install 'slidestream[safetensors]'."
        ) from error
    try:
        state: State = load_file(path)
    except (SafetensorError, OSError) as error:
        raise WeightsUnavailableError(
            f"weights '{path}' could not be read as safetensors ({error}). Most likely the file is cut short: copy or "
            "download it again."
        ) from error
    return state


def _why(error: Exception, path: Path, start: bytes) -> str:
    """Cause and remedy for an error of torch.load."""
    again = "Copy or download it again."
    if start.startswith(b"version https://git-lfs"):
        return "it is a pointer of Git LFS, not the file itself. Fetch that with `git lfs pull`."
    if start.lstrip()[:1] == b"<":
        return "it is a web page, as a failed download leaves it. Download it again."
    if isinstance(error, pickle.UnpicklingError) and "Weights only load failed" in str(error):
        named = re.search(r"GLOBAL (\S+)", str(error))
        return (
            f"it holds more than tensors and plain values{f' ({named[1]})' if named else ''}, which could run code. If "
            "you trust it, write its weights to a new file once: torch.save(model.state_dict(), 'new.pth'), where "
            f"content = torch.load('{path.name}', weights_only=False) is that model, or holds it or its state dict."
        )
    if start.startswith(b"PK"):
        return f"the file is cut short or damaged ({path.stat().st_size} bytes). {again}"
    return (
        f"it is cut short, or no file of torch.save ({path.stat().st_size} bytes; {type(error).__name__}). {again} "
        "A state dict is saved with torch.save(model.state_dict(), path)."
    )


def _unwrapped(content: Any) -> State | None:
    """The state dict inside of what a file holds; None if there is none."""
    if not isinstance(content, Mapping):
        return None
    for key in [key for key in _CONTAINERS if isinstance(content.get(key), Mapping)]:
        state = _unwrapped(content[key])
        if state:
            others = [other for other in _CONTAINERS if other != key and isinstance(content.get(other), Mapping)]
            if others:
                _LOGGER.warning("The weights are those under '%s'; there are also %s.", key, ", ".join(others))
            return state
    tensors = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
    return tensors or None


# -- fitting -----------------------------------------------------------------------------------------------------------


def load_weights(
    network: nn.Module,
    state: Mapping[str, Tensor],
    *,
    head: str,
    source: object,
    name: str,
    renamed: Sequence[Mapping[str, str]] = (),
    left_out: str | None = None,
) -> None:
    """Load a state dict into a network, whose head may be another one.

    Args:
        network: Its parameters are replaced.
        state: The weights, whose names may begin with anything.
        head: Name of the last linear layer. It stays as it is if the weights have another or none, with a warning.
        source: Where the weights come from, for messages.
        name: Name of the network, for messages.
        renamed: Names that the network's layers may have in the weights instead, by the first part of theirs.
        left_out: A layer of the weights that the network lacks on purpose.

    Raises:
        ValueError: If a weight of the trunk is missing, has another shape, or is not finite; if the weights have layers
            of the trunk that the network lacks; or if several networks in them would fit.
    """
    state = {_OLD_DENSENET.sub(r"\1\2", _WRAPPERS.sub("", key)): value for key, value in state.items()}
    own = network.state_dict()
    trunk = {key for key in own if not key.startswith(f"{head}.")}
    prefix, names = _names_in(state, [key for key in own if key in trunk and not key.endswith(_COUNTER)], renamed,
                              f"weights '{source}' do not fit {name}")  # fmt: skip
    theirs = {key: prefix + _renamed(key, names) for key in trunk}
    fitted = {key: state[theirs[key]] if theirs[key] in state else own[key] for key in trunk}
    rest = {key: value for key, value in state.items() if key not in theirs.values()}
    layers = {_renamed(key, names).split(".")[0] for key in trunk} - {left_out}
    extra = [
        key for key in rest
        if key.startswith(prefix) and key.removeprefix(prefix).split(".")[0] in layers
        and not key.startswith(f"{prefix}{head}.") and not key.endswith(_COUNTER)
    ]  # fmt: skip
    if extra:
        reason = f"it has no layers for {len(extra)} of them, {_some(extra)}"
        raise ValueError(f"weights '{source}' do not fit {name}: {reason}. {_REMEDY}")
    _fit_channels(fitted, network)
    _check(fitted, own, f"weights '{source}' do not fit {name}")
    fitted |= _head(network.get_submodule(head), head, prefix, rest)
    network.load_state_dict(fitted)


_REMEDY = "Choose the model_name, or network, that the weights were made with."


def _renamed(key: str, names: Mapping[str, str]) -> str:
    first, dot, others = key.partition(".")
    return names.get(first, first) + dot + others


def _some(keys: Iterable[str]) -> str:
    listed = [f"'{key}'" for key in keys]
    return ", ".join(listed[:4]) + (f", ... ({len(listed)} in all)" if len(listed) > 4 else "")


def _names_in(
    state: State, needed: list[str], renamed: Sequence[Mapping[str, str]], misfit: str
) -> tuple[str, Mapping[str, str]]:
    """The prefix and the names under which the weights have all that is needed."""
    for names in ({}, *renamed):
        searched = [_renamed(key, names) for key in needed]
        complete = [prefix for prefix, count in _prefixes(state, searched).items() if count == len(searched)]
        if complete:
            return _only(complete, state, searched, misfit), names
    prefix = max(_prefixes(state, needed).items(), key=lambda found: found[1], default=("", 0))[0]
    missing = [key for key in needed if prefix + key not in state]
    where = f" behind the prefix '{prefix}'" if prefix else ""
    near = get_close_matches(prefix + missing[0], state, n=3, cutoff=0.6) or list(state)[:3]
    raise ValueError(
        f"{misfit}: they lack {len(missing)} of {len(needed)} weights of its trunk{where}, {_some(missing)}. The "
        f"nearest names to the first are {_some(near)}. {_REMEDY}"
    )


def _prefixes(state: State, names: list[str]) -> Counter[str]:
    """How many of the names the weights have behind each prefix."""
    known, counts = set(names), Counter[str]()
    for key in state:
        starts = [0, *(match.end() for match in re.finditer(r"\.", key))]
        counts.update(key[:start] for start in starts if key[start:] in known)
    return counts


def _only(prefixes: list[str], state: State, names: list[str], misfit: str) -> str:
    """The one prefix that counts, of some that all weights are behind."""
    chosen = prefixes
    for used, other in _FIRST_OF_TWO:
        if any(used in prefix for prefix in chosen):
            chosen = [prefix for prefix in chosen if other not in prefix]
    first = chosen[0]
    for prefix in chosen[1:]:
        if not all(torch.equal(state[first + key], state[prefix + key]) for key in names):
            raise ValueError(
                f"{misfit} in one way only: they hold a whole trunk behind each of the prefixes {_some(chosen)}. Save "
                f"one of them: torch.save({{k: v for k, v in state.items() if k.startswith('{first}')}}, 'new.pth')."
            )
    if len(prefixes) > 1:
        _LOGGER.warning("The weights behind the prefix '%s' are used, of %s.", first, _some(prefixes))
    return first


def _fit_channels(fitted: State, network: nn.Module) -> None:
    """Adapt the first convolution to the channels of the image, keeping the magnitude of its output for gray images."""
    for name, layer in network.named_modules():
        if isinstance(layer, nn.Conv2d):
            key, channels = f"{name}.weight", layer.weight.shape[1]
            weight = fitted[key]
            if weight.ndim == 4 and weight.shape[1] != channels and layer.groups == 1:
                scale = weight.shape[1] / channels
                fitted[key] = weight.mean(dim=1, keepdim=True).repeat(1, channels, 1, 1) * scale
            return


def _check(fitted: State, own: State, misfit: str) -> None:
    shapes = [
        f"'{key}' {tuple(value.shape)} in place of {tuple(own[key].shape)}"
        for key, value in fitted.items()
        if value.shape != own[key].shape
    ]
    if shapes:
        more = f", ... ({len(shapes)} in all)" if len(shapes) > 3 else ""
        raise ValueError(f"{misfit}: other shapes, {', '.join(shapes[:3])}{more}. {_REMEDY}")
    for key, value in fitted.items():
        if own[key].is_floating_point() and not (value.is_floating_point() and bool(value.isfinite().all())):
            found = f"{value.dtype}" if not value.is_floating_point() else "NaN or infinite values"
            raise ValueError(f"{misfit}: '{key}' holds {found}. Save the weights as finite floating-point numbers.")


def _head(layer: nn.Module, head: str, prefix: str, rest: State) -> State:
    """The last layer's weights: those of the file if they fit, else its own, with a warning."""
    own = {f"{head}.{key}": value for key, value in layer.state_dict().items()}
    weight = own[f"{head}.weight"]
    under = [key for key, value in rest.items() if key.startswith(f"{prefix}{head}.") and value.ndim == 2]
    elsewhere = [key for key, value in rest.items() if _HEADS.fullmatch(key) and value.shape == weight.shape]
    found = under or elsewhere
    if len(found) == 1 and rest[found[0]].shape == weight.shape:
        parts = {key: rest.get(found[0].removesuffix("weight") + key.removeprefix(f"{head}.")) for key in own}
        fitting = {key: value for key, value in parts.items() if value is not None and value.shape == own[key].shape}
        if fitting.keys() == own.keys():
            return fitting
    if len(found) == 1:
        classes, features = rest[found[0]].shape
        said = f"a classifier of {classes} classes"
        said += f" on {features} features" if features != weight.shape[1] else ""
    else:
        said = f"several linear layers at the end, {_some(found)}" if found else "no classifier"
    _LOGGER.warning("The weights have %s; a new one of %d classes is used.", said, len(weight))
    return own
