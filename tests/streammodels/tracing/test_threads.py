"""Tracing in one thread changes nothing for other threads, those that trace the same layers included."""

from __future__ import annotations

import copy
import pickle
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

from streammodels import UnsupportedLayerError, stream
from streammodels.tracing.trace import trace


def network() -> nn.Sequential:
    block = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)]
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), block, nn.MaxPool2d(2), *head).eval()


@pytest.fixture(autouse=True)
def _frequent_switches() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


def in_threads(tasks: list[Callable[[], Any]]) -> list[Any]:
    """The results of tasks that start at the same time."""
    barrier = threading.Barrier(len(tasks))

    def run(task: Callable[[], Any]) -> Any:
        barrier.wait()
        return task()

    with ThreadPoolExecutor(len(tasks)) as pool:
        return [future.result() for future in [pool.submit(run, task) for task in tasks]]


def test_models_that_are_called_first_in_several_threads() -> None:
    call, get = nn.Module.__call__, nn.Module.__getattr__
    image = torch.randn(1, 3, 21, 17)
    shared, plain = network(), network()

    def streamed(module: nn.Module) -> Callable[[], Tensor]:
        return lambda: torch.cat([stream(module, strip_rows=5)(image) for _ in range(4)])

    def called(module: nn.Module) -> Callable[[], Tensor]:
        return lambda: torch.cat([module(image) for _ in range(40)])

    with torch.no_grad():
        expected = {id(module): module(image) for module in (shared, plain)}
    others = [network() for _ in range(3)]
    expected |= {id(module): module(image).detach() for module in others}
    modules = [shared, shared, shared, plain, *others]
    tasks = [streamed(shared), streamed(shared), called(shared), called(plain), *map(streamed, others)]
    for module, results in zip(modules, in_threads(tasks), strict=True):
        torch.testing.assert_close(results, expected[id(module)].expand_as(results))
    assert nn.Module.__call__ is call
    assert nn.Module.__getattr__ is get
    assert not any("forward" in vars(layer) for module in modules for layer in module.modules())


def test_one_streamed_module_trained_in_several_threads() -> None:
    module, image = network(), torch.randn(1, 3, 21, 17)
    trunk = stream(module, strip_rows=5)
    [expected] = torch.autograd.grad(trunk(image).sum(), [module[0].weight])

    def gradient() -> Tensor:
        grads = [torch.autograd.grad(trunk(image).sum(), [module[0].weight])[0] for _ in range(4)]
        return torch.stack(grads)

    for grads in in_threads([gradient] * 4):
        torch.testing.assert_close(grads, expected.expand_as(grads))


class Waiting(nn.Module):
    """A module whose forward waits in the thread that traces it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.wait = nn.Conv2d(3, 4, 3), False
        self.reached, self.go_on = threading.Event(), threading.Event()

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        if self.wait and isinstance(x, fx.Proxy):
            self.reached.set()
            assert self.go_on.wait(30)
        return x.relu()

    def __deepcopy__(self, memo: Any) -> Waiting:
        return Waiting()


def test_everything_else_works_in_the_middle_of_a_trace() -> None:
    waiting, other, image = Waiting(), network(), torch.randn(1, 3, 9, 8)
    expected = waiting(image)
    twin = stream(waiting.conv, strip_rows=3)
    waiting.wait = True
    with ThreadPoolExecutor(1) as pool:
        tracing = pool.submit(trace, waiting)
        assert waiting.reached.wait(30)
        try:
            torch.testing.assert_close(waiting(image), expected)
            torch.testing.assert_close(stream(other, strip_rows=3)(image), other(image))
            torch.testing.assert_close(twin(image), waiting.conv(image))  # a layer that is being traced
            assert sum(node.op == "call_module" for node in fx.symbolic_trace(other).graph.nodes) == 8
            for copied in (copy.deepcopy(waiting.conv), pickle.loads(pickle.dumps(waiting.conv))):
                torch.testing.assert_close(stream(copied, strip_rows=3)(image), waiting.conv(image))
            compiled = torch.compile(other, backend="eager")
            torch.testing.assert_close(compiled(image), other(image))
        finally:
            waiting.go_on.set()
        assert [node.kind for node in tracing.result(30).nodes] == ["image", "Conv2d", "relu"]
    assert "forward" not in vars(waiting)
    assert "forward" not in vars(waiting.conv)


def test_failed_trace_leaves_the_layers_as_they_were() -> None:
    class Fails(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x) if self.conv(x).sum() > 0 else x

    module = Fails()
    before = [dict(vars(layer)) for layer in module.modules()]
    with pytest.raises(UnsupportedLayerError, match="fixed list of operations"):
        stream(module, strip_rows=3)
    assert [dict(vars(layer)) for layer in module.modules()] == before
    assert module(torch.randn(1, 3, 9, 8)).ndim == 4
