"""Weight files as people have them: behind prefixes, inside of checkpoints, with other heads, damaged."""

from __future__ import annotations

import copy
import logging
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from streammodels.models.resnet import build_resnet
from streammodels.models.weights import WeightsUnavailableError

State = dict[str, Tensor]


@pytest.fixture(scope="module")
def source() -> nn.Module:
    torch.manual_seed(1)
    return build_resnet("resnet9", 3, None)


def load(content: Any, tmp_path: Path, classes: int = 3) -> nn.Module:
    path = tmp_path / "mine.pth"
    torch.save(content, path)
    return build_resnet("resnet9", classes, path)


def same(a: nn.Module, b: nn.Module, but: str = "none") -> bool:
    """Whether two networks have the same weights, but for those of a layer."""
    mine, others = a.state_dict(), b.state_dict()
    return all(torch.equal(value, others[key]) for key, value in mine.items() if not key.startswith(but))


def behind(state: State, prefix: str) -> State:
    return {prefix + key: value for key, value in state.items()}


@pytest.mark.parametrize(
    "prefix", ["module.", "model.", "backbone.", "encoder.", "network.", "module._orig_mod.net.x."]
)
def test_any_prefix_is_found(prefix: str, source: nn.Module, tmp_path: Path) -> None:
    assert same(load(behind(source.state_dict(), prefix), tmp_path), source)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: {"state_dict": behind(s, "trunk."), "epoch": 3, "args": Namespace(lr=0.1)},
        lambda s: {"model": s, "optimizer": {"state": {}}},
        lambda s: {"teacher": behind(s, "module.backbone."), "student": {k: v + 1 for k, v in s.items()}},
        lambda s: {k.replace("layer2.", "layer2._orig_mod."): v for k, v in s.items()},
        lambda s: {k: v for k, v in s.items() if "num_batches_tracked" not in k},
        lambda s: behind(s, "model.") | {"projector.weight": torch.ones(4, 4)},
        lambda s: behind(s, "encoder_q.") | {f"encoder_k.{k}": v + 1 for k, v in s.items()},
        lambda s: behind(s, "a.") | behind(s, "b."),
    ],
)
def test_state_dicts_inside_of_others(wrap: Callable[[State], Any], source: nn.Module, tmp_path: Path) -> None:
    assert same(load(wrap(source.state_dict()), tmp_path), source)


def test_layers_numbered_by_a_sequential(source: nn.Module, tmp_path: Path) -> None:
    plain = build_resnet("resnet18", 2, None)
    torch.save({"features": plain.get_parameter("conv1.weight")}, tmp_path / "few.pth")
    torch.save(nn.Sequential(*list(plain.children())[:-1]).state_dict(), tmp_path / "numbered.pth")
    assert same(build_resnet("resnet18", 2, tmp_path / "numbered.pth"), plain, but="fc")
    with pytest.raises(ValueError, match=r"they lack 100 of 100 weights of its trunk"):
        build_resnet("resnet18", 2, tmp_path / "few.pth")


def test_safetensors(source: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file(behind(source.state_dict(), "model."), path)
    assert same(build_resnet("resnet9", 3, path), source)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(WeightsUnavailableError, match=r"model\.safetensors.*cut short"):
        build_resnet("resnet9", 3, path)


def test_head_in_a_sequential_is_found_and_one_of_another_size_replaced(
    source: nn.Module, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    state = source.state_dict()
    headed = {key.replace("fc.", "fc.1."): value for key, value in state.items()}
    assert same(load(headed, tmp_path), source)
    assert not caplog.records
    assert same(load(headed, tmp_path, classes=4), source, but="fc")
    assert "have a classifier of 3 classes; a new one of 4" in caplog.text
    without = {key: value for key, value in state.items() if not key.startswith("fc")}
    elsewhere = behind(without, "trunk.") | {"head.weight": state["fc.weight"], "head.bias": state["fc.bias"]}
    assert same(load(elsewhere, tmp_path), source)
    caplog.set_level(logging.WARNING)
    assert same(load(without, tmp_path), source, but="fc")
    assert "no classifier" in caplog.text


def damaged(state: State, kind: str) -> State:
    state = copy.copy(state)
    if kind == "missing":
        del state["layer3.1.conv2.weight"]
    elif kind == "renamed":
        state["layer3.1.conv_2.weight"] = state.pop("layer3.1.conv2.weight")
    elif kind == "extra":
        state["layer1.1.se.weight"] = torch.ones(2)
    elif kind == "shape":
        state["bn1.bias"] = torch.zeros(31)
    elif kind == "nan":
        state["bn1.bias"] = torch.full((32,), torch.nan)
    elif kind == "whole numbers":
        state["conv1.weight"] = state["conv1.weight"].to(torch.int8)
    elif kind == "two":
        state = behind(state, "a.") | {f"b.{key}": value + 1 for key, value in state.items()}
    return state


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("missing", r"lack 1 of \d+ weights of its trunk, 'layer3\.1\.conv2\.weight'"),
        ("renamed", r"nearest names to the first are 'layer3\.1\.conv_2\.weight'"),
        ("extra", r"no layers for 1 of them, 'layer1\.1\.se\.weight'"),
        ("shape", r"'bn1\.bias' \(31,\) in place of \(32,\)"),
        ("nan", r"'bn1\.bias' holds NaN"),
        ("whole numbers", r"'conv1\.weight' holds torch\.int8"),
        ("two", r"prefixes 'a\.', 'b\.'"),
    ],
)
def test_what_does_not_fit_is_named(kind: str, said: str, source: nn.Module, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=said):
        load(damaged(source.state_dict(), kind), tmp_path)
    with pytest.raises(ValueError, match="do not fit resnet9"):
        load(behind(damaged(source.state_dict(), kind), "module."), tmp_path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda data: data[: len(data) // 2], r"cut short or damaged \(\d+ bytes\)"),
        (lambda data: b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (lambda data: b"<!DOCTYPE html><html>", "a web page"),
    ],
)
def test_damaged_files_say_what_they_are(
    change: Callable[[bytes], bytes], said: str, source: nn.Module, tmp_path: Path
) -> None:
    path = tmp_path / "mine.pth"
    torch.save(source.state_dict(), path)
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(WeightsUnavailableError, match=said):
        build_resnet("resnet9", 3, path)


def test_a_pickled_network_is_not_run(source: nn.Module, tmp_path: Path) -> None:
    with pytest.raises(WeightsUnavailableError, match=r"could run code.*model\.state_dict\(\)"):
        load(source, tmp_path)
    with pytest.raises(ValueError, match=r"hold no state dict, but a dict of epoch, names"):
        load({"epoch": 3, "names": ["a"]}, tmp_path)
