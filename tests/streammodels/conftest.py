"""Comparisons of streamed with plain modules, and fixtures for every test in this folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from streammodels import StreamedModule, stream
from streammodels.backprop import arena

Compare = Callable[..., float]
RELATIVE_TOLERANCE = 1e-12


@dataclass
class Result:
    output: Tensor
    grads: dict[str, Tensor | None]


def run(call: Callable[[Tensor], Tensor], module: nn.Module, image: Tensor, image_grad: bool = True) -> Result:
    """Output and all gradients of ``sum(output * weights)``, with random weights against symmetry."""
    module.zero_grad()
    entered = image.clone().requires_grad_(image_grad and image.is_floating_point())
    output = call(entered)
    weights = torch.randn(output.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(7))
    (output * weights.to(output.dtype)).sum().backward()
    grads = {name: p.grad for name, p in module.named_parameters()}
    return Result(output.detach(), {**grads, "image": entered.grad})


def distance(actual: Tensor | None, expected: Tensor | None, scale: float = 0.0) -> float:
    """Relative L2 distance; infinite if one is missing or the shapes differ."""
    if actual is None or expected is None:
        return 0.0 if actual is expected else float("inf")
    if actual.shape != expected.shape or actual.dtype != expected.dtype:
        return float("inf")
    size = max(float(expected.norm()), scale)
    return float((actual - expected).norm()) / size if size else float(actual.norm())


def largest_distance(
    module: nn.Module, image: Tensor, strip_rows: int, image_grad: bool = True, **options: Any
) -> float:
    """The largest relative distance of output and gradients, streamed (with `options` of `stream`) against plain."""
    plain = run(module, module, image, image_grad)
    streamed = run(stream(module, strip_rows=strip_rows, **options), module, image, image_grad)
    # A gradient that is zero up to rounding (a bias before a difference, say) is measured relative to the largest one.
    scale = 1e-6 * max((float(grad.norm()) for grad in plain.grads.values() if grad is not None), default=0.0)
    far = {name: distance(streamed.grads[name], grad, scale) for name, grad in plain.grads.items()}
    return max(distance(streamed.output, plain.output), *far.values())


@pytest.fixture(scope="session")
def assert_exact() -> Compare:
    """``assert_exact(module, image, strip_rows)``: output and every gradient equal plain autograd in float64."""

    def check(module: nn.Module, image: Tensor, strip_rows: int, image_grad: bool = True, **options: Any) -> float:
        assert image.dtype == torch.float64
        worst = largest_distance(module.double(), image, strip_rows, image_grad, **options)
        assert worst <= RELATIVE_TOLERANCE
        return worst

    return check


@pytest.fixture(scope="session")
def randomize_batch_norm() -> Callable[[nn.Module], nn.Module]:
    """Give every batch normalization random statistics, scale and shift, and freeze it."""

    def randomize(module: nn.Module) -> nn.Module:
        for layer in module.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.eval()
                assert layer.running_mean is not None
                assert layer.running_var is not None
                nn.init.normal_(layer.running_mean, std=0.3)
                nn.init.uniform_(layer.running_var, 0.5, 2.0)
                if layer.affine:
                    nn.init.uniform_(layer.weight, 0.5, 1.5)
                    nn.init.normal_(layer.bias, std=0.3)
        return module

    return randomize


class LargestTensor(TorchDispatchMode):
    """Records the number of elements of the largest tensor created.

    Attributes:
        numbers: That number; 0 if no tensor was created.
    """

    def __init__(self) -> None:
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        made = [value for value in pytree.tree_leaves(result) if isinstance(value, Tensor) and not value.is_meta]
        self.numbers = max([self.numbers, *(tensor.numel() for tensor in made)])
        return result


@pytest.fixture
def largest_tensor(monkeypatch: pytest.MonkeyPatch) -> LargestTensor:
    """``with largest_tensor: ...``, then ``largest_tensor.numbers``. Kept carries do not share blocks."""
    monkeypatch.setattr(arena, "BLOCK_BYTES", 0)
    return LargestTensor()


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every layer computes as soon as it can; on small images it would otherwise wait for all rows."""
    monkeypatch.setattr(StreamedModule, "kernel_pixels", 1)


@pytest.fixture(autouse=True)
def _one_thread_and_seed() -> Iterator[None]:
    """One thread, for small kernels, and random numbers that do not depend on the order of the tests."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def trainer() -> Callable[..., Trainer]:
    """Makes a Trainer on the CPU that writes no files, by default for three steps."""

    def make(**options: Any) -> Trainer:
        defaults: dict[str, Any] = {
            "accelerator": "cpu", "devices": 1, "max_steps": 3, "logger": False, "enable_checkpointing": False,
            "enable_progress_bar": False, "enable_model_summary": False,
        }  # fmt: skip
        return Trainer(**(defaults | options))

    return make
