"""Streamed results and gradients against plain autograd on the device, in float64."""

from __future__ import annotations

import copy
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import hypothesis
import torch
from hypothesis import strategies as st
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from gpu.blocks import Record, Setting
from gpu.parts import DrawnRows, relative, resnet
from streammodels import Keeping, stream
from streammodels.backprop.bptt import ImagePass

TOLERANCE = 1e-12
TESTS = Path(__file__).resolve().parents[1] / "streammodels"


class InexactError(Exception):
    """A streamed result differs from the plain one."""


def exact(setting: Setting) -> Iterator[Record]:
    """A ResNet-18 in every way in which a device matters."""
    rows, height, width = (9, 67, 45) if setting.tiny else (64, 611, 405)
    network = resnet("resnet18", setting, torch.float64).requires_grad_()
    pixels = DrawnRows(height, width, torch.device("cpu"))
    image = pixels.rows(0, height)[None].double().div_(255).to(setting.device)
    expected = results(network, network, image)
    cases: dict[str, tuple[Record, Any]] = {
        "strips": ({"strip_rows": rows}, image),
        "image on the host": ({"strip_rows": rows}, image.cpu()),
        "rows read on the host": ({"strip_rows": rows}, pixels),
        "carries on the host": ({"strip_rows": rows, "keeping": Keeping(on_host=True)}, image),
        "few carries": ({"strip_rows": rows, "keeping": Keeping(every=3, graphs=2)}, image),
        "budget": ({"memory": "1GB"}, image),
    }
    if "compile" in inspect.signature(stream).parameters:
        cases["compiled"] = ({"strip_rows": rows, "compile": True}, image)
    worst = 0.0
    for name, (options, source) in cases.items():
        found = results(stream(network, **options), network, source)
        far = {key: relative(found[key].to(value.device), value) for key, value in expected.items() if key in found}
        worst = max(worst, *far.values())
        yield {"case": name, "distance": max(far.values()), "where": max(far, key=lambda key: far[key])}
    _check(worst)


def parallel(setting: Setting) -> Iterator[Record]:
    """One process of DistributedDataParallel."""
    network = resnet("resnet18", setting, torch.float64)
    image = DrawnRows(67, 45, setting.device).whole().double()
    expected = results(network, network, image)
    where, hook = f"file://{setting.folder.resolve()}/processes", sys.excepthook
    distributed.init_process_group("nccl" if setting.on_gpu else "gloo", init_method=where, rank=0, world_size=1)
    try:
        wrapped = DistributedDataParallel(stream(network, strip_rows=16), gradient_as_bucket_view=True)
        found = results(wrapped, network, image)
    finally:
        distributed.destroy_process_group()
        sys.excepthook = hook  # which torch replaces for good
        (setting.folder / "processes").unlink(missing_ok=True)
    worst = max(relative(found[name], value) for name, value in expected.items())
    yield {"case": "one process", "distance": worst}
    _check(worst)


def random_networks(setting: Setting) -> Iterator[Record]:
    """Random networks, images and strips, as in the tests; round by round."""
    generator = load("test_streaming")
    for number in range(1 if setting.tiny else 8):
        far = _round(number, setting, generator)
        yield {"round": number, "networks": len(far), "distance": max(far, default=0.0)}


def _round(number: int, setting: Setting, generator: ModuleType) -> list[float]:
    """The distances of the networks of a round, drawn from its number."""
    far: list[float] = []

    @hypothesis.seed(number)
    @hypothesis.settings(
        max_examples=3 if setting.tiny else 20, deadline=None, database=None, print_blob=False,
        phases=(hypothesis.Phase.generate,), suppress_health_check=list(hypothesis.HealthCheck),
    )  # fmt: skip
    @hypothesis.given(
        network=generator.networks(), rows=st.integers(1, 40), height=st.integers(1, 90), width=st.integers(1, 90)
    )
    def one(network: nn.Module, rows: int, height: int, width: int) -> None:
        distance = _compare(network, rows, (2, 2, height, width), setting.device)
        far.extend([] if distance is None else [distance])

    one()
    return far


def waits(setting: Setting) -> Iterator[Record]:
    """The networks of `host_waits.py`; torch raises at whatever makes the host wait for a GPU."""
    module, waiting = load("backprop/host_waits"), []
    for name, case in list(module.CASES.items())[: 3 if setting.tiny else None]:
        network = module.streamed(case.make().to(setting.device), case.options)
        module.train(network, setting.device)  # for what is kept for a size
        try:
            with _no_waiting(setting):
                module.train(network, setting.device)
            yield {"network": name, "checked": setting.on_gpu}
        except RuntimeError as error:
            waiting.append(name)
            yield {
                "network": name,
                "checked": True,
                "waits": str(error).splitlines()[0],
                "note": getattr(error, "__notes__", []),
            }
    if waiting:
        raise InexactError(f"the host waits for the device in: {'; '.join(waiting)}")


def _no_waiting(setting: Setting) -> AbstractContextManager[object]:
    """In the loops over strips, let torch raise at what makes the host wait."""

    def alert(function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **options: Any) -> Any:
            torch.cuda.set_sync_debug_mode("error")
            try:
                return function(*args, **options)
            finally:
                torch.cuda.set_sync_debug_mode("default")

        return run

    loops = {name: alert(getattr(ImagePass, name)) for name in ("forward", "backward")}
    return mock.patch.multiple(ImagePass, **loops) if setting.on_gpu else nullcontext()


@cache
def load(name: str) -> ModuleType:
    """A file of the tests of streammodels as a module; they are no package."""
    spec = importlib.util.spec_from_file_location(f"gpu_{Path(name).name}", TESTS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def results(call: Callable[[Any], Tensor], network: nn.Module, image: Any) -> dict[str, Tensor]:
    """Output and gradients of ``sum(output * weights)``, with fixed random weights against symmetry."""
    network.zero_grad()
    entered = image.clone().requires_grad_() if isinstance(image, Tensor) else image
    output = call(entered)
    weights = torch.randn(output.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(7))
    (output * weights.to(output)).sum().backward()
    grads = {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
    own = {"image": entered.grad} if isinstance(image, Tensor) else {}
    return {"output": output.detach(), **grads, **own}


def _compare(network: nn.Module, rows: int, shape: tuple[int, ...], device: torch.device) -> float | None:
    """The distance of a random network; None if it does not take the image, or amplifies rounding more than that."""
    torch.manual_seed(1)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.4)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.eval()
            nn.init.normal_(layer.running_mean, std=0.3)  # type: ignore[arg-type]
            nn.init.uniform_(layer.running_var, 0.5, 2.0)  # type: ignore[arg-type]
    network.to(device, torch.float64)
    image = torch.randn(shape, dtype=torch.float64).to(device)
    try:
        expected = results(network, network, image)
    except (RuntimeError, ValueError) as error:  # the image is too small for the network
        if "CUDA" in str(error) or "cuDNN" in str(error):
            raise
        return None
    far = _farthest(results(stream(network, strip_rows=rows), network, image), expected)
    if far > TOLERANCE:
        moved = copy.deepcopy(network)
        with torch.no_grad():
            for value in (*moved.parameters(), image):
                value.mul_(1 + torch.finfo(value.dtype).eps * (2 * torch.rand_like(value) - 1))
        own = _farthest(results(moved, moved, image), expected)
        if far > 10 * own:
            raise InexactError(f"{far:.3g}, where the last bits of weights and image change {own:.3g}, in {network}")
        return None
    return far


def _farthest(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """The largest distance; a gradient that is zero but for rounding is measured against the largest."""
    least = 1e-6 * max(float(value.norm()) for value in expected.values())
    far = [float((found[n] - value).norm()) / max(float(value.norm()), least, 1e-300) for n, value in expected.items()]
    return max(far)


def _check(worst: float) -> None:
    if worst > TOLERANCE:
        raise InexactError(f"a result is off by {worst:.3g}, relative, more than {TOLERANCE:.0e}")
