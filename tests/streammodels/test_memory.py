"""Memory: what is kept grows with the number of strips only, and the estimate follows."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import resnet18

from streammodels import stream
from streammodels.memory import parse_bytes, training_bytes
from streammodels.tracing import trace


def network() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1)
    )


def kept_bytes(module: nn.Module, height: int, strip_rows: int) -> int:
    """Bytes of maps that autograd keeps between forward and backward, the image aside."""
    kept: list[int] = []
    image = torch.rand(1, 3, height, 32)

    def pack(tensor: Tensor) -> Tensor:
        is_map = tensor.ndim == 4 and tensor.shape[0] == 1 and tensor.data_ptr() != image.data_ptr()
        kept.append(tensor.numel() * tensor.element_size() if is_map else 0)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = stream(module, strip_rows=strip_rows)(image)
    assert result.requires_grad
    return sum(kept)


def test_kept_bytes_grow_with_the_number_of_strips_and_not_with_their_height() -> None:
    few, more = kept_bytes(network(), 128, 32), kept_bytes(network(), 256, 64)
    assert 0 < few == more  # four strips each
    assert kept_bytes(network(), 256, 32) == pytest.approx(few * 7 / 3, rel=0.01)
    assert few < 128 * 32 * 8 * 4 / 4


def test_one_strip_keeps_nothing() -> None:
    assert kept_bytes(network(), 64, 64) == 0


@pytest.mark.parametrize("mode", ["frozen", "no_grad"])
def test_without_training_nothing_is_kept(mode: str) -> None:
    module = network()
    if mode == "frozen":
        module.requires_grad_(False)
    kept: list[Tensor] = []
    hooks = torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t)
    with hooks, torch.set_grad_enabled(mode == "frozen"):
        assert stream(module, strip_rows=4)(torch.rand(1, 3, 64, 32)).grad_fn is None
    assert not kept


@pytest.mark.parametrize(
    ("text", "expected"),
    [("8GB", 8_000_000_000), ("500 MiB", 500 * 2**20), ("1.5kB", 1500), (1234, 1234), ("2g", 2 * 10**9), ("7", 7)],
)
def test_bytes_are_read(text: str | int, expected: int) -> None:
    assert parse_bytes(text) == expected


@pytest.mark.parametrize("text", ["", "GB", "8 bananas", "-3GB", 0, "0MB", "8PB"])
def test_bytes_that_make_no_sense_are_refused(text: str | int) -> None:
    with pytest.raises(ValueError, match="not understood"):
        parse_bytes(text)


def test_estimate_grows_with_batch_and_image() -> None:
    traced = trace(resnet18(weights=None).eval())
    small = training_bytes(traced, 1, 1024, 512, 64)
    assert training_bytes(traced, 2, 1024, 512, 64) > 1.1 * small
    assert training_bytes(traced, 1, 2048, 512, 64) > small
    assert training_bytes(traced, 1, 1024, 512, 1024) > 1.5 * small


def test_budget_picks_the_tallest_strips_that_fit() -> None:
    module = resnet18(weights=None).eval()
    trunks = [stream(module, memory=budget) for budget in ("600MB", "1GB", "100GB")]
    rows = [trunk.plan(2048, 1024).ready[0][0] for trunk in trunks]
    assert rows[0] < rows[1] < rows[2] == 2048
    assert training_bytes(trace(module), 1, 2048, 1024, rows[1]) <= 1e9


def test_budget_too_small_says_how_much_is_needed() -> None:
    with pytest.raises(ValueError, match=r"too small.*need least, about [0-9.]+ MB"):
        stream(network(), memory="10kB").plan(512, 256)


def test_budget_gives_the_plain_result() -> None:
    module, image = network(), torch.rand(2, 3, 300, 40)
    trunk = stream(module, memory="800kB")
    assert trunk.plan(300, 40).strips > 1
    torch.testing.assert_close(trunk(image), module(image))
