"""Time and memory of training steps, plain, checkpointed, streamed under budgets, and by lightstream.

Images are made on the device row by row, so that no decoding is in the figures; networks are torchvision's ResNets with
frozen batch normalization, in bf16 autocast with the channels last. Memory is that above network and image.
"""

from __future__ import annotations

import importlib.util
import math
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import DeviceType

from gpu.blocks import Record, Setting
from gpu.parts import DrawnRows, checkpointed, flat_grads, peak_memory, relative, resnet, seconds, step
from streammodels import Keeping, stream

HALF = torch.bfloat16
SIDES = (4096, 8192, 16384)
BUDGETS = ("4GB", "16GB", "64GB")
STRIP_PIXELS = 2**22


def resnet18(setting: Setting) -> Iterator[Record]:
    """ResNet-18."""
    yield from _variants("resnet18", setting)


def resnet34(setting: Setting) -> Iterator[Record]:
    """ResNet-34."""
    yield from _variants("resnet34", setting)


def resnet50(setting: Setting) -> Iterator[Record]:
    """ResNet-50."""
    yield from _variants("resnet50", setting)


def _variants(name: str, setting: Setting) -> Iterator[Record]:
    """All variants of a network, image by image; gradients are compared with plain ones where these fit."""
    for side in (64,) if setting.tiny else SIDES:
        network = resnet(name, setting)
        whole, rows = DrawnRows(side, side, setting.device).whole(), DrawnRows(side, side, setting.device)
        variants: dict[str, tuple[Callable[[Any], Tensor], Any]] = {
            "plain": (network, whole),
            "checkpoint": (checkpointed(network), whole),
            "strips, all recomputed": (
                stream(network, strip_rows=16 if setting.tiny else STRIP_PIXELS // side, keeping=Keeping(graphs=0)),
                rows,
            ),
        }
        for budget in ("100MB",) if setting.tiny else BUDGETS:
            variants[f"memory={budget}"] = stream(network, memory=budget), rows
        plain_s, plain_grads = math.nan, None
        for variant, (forward, image) in variants.items():
            record: Record = {"model": name, "side": side, "variant": variant}
            try:
                _measure(record, setting, forward, network, image)
            except torch.OutOfMemoryError:
                record["error"] = "out of memory"
            except ValueError as error:  # a budget that is too small
                record["error"] = str(error)
            else:
                grads = flat_grads(network)
                if variant == "plain":
                    plain_s, plain_grads = record["step_s"], grads
                elif plain_grads is not None:
                    record["gradient_distance"] = relative(grads, plain_grads)
                record["over_plain"] = record["step_s"] / plain_s if plain_grads is not None else None
            network.zero_grad(set_to_none=True)
            yield record


def _measure(
    record: Record, setting: Setting, forward: Callable[[Any], Tensor], network: nn.Module, image: Any
) -> None:
    """Fill in the time and the memory of a step, and their forecast."""
    if hasattr(forward, "forecast"):
        with torch.autocast(setting.device.type, HALF):
            forecast = forward.forecast(*image.shape[1:])
        record |= {
            "forecast_bytes": forecast.memory_bytes, "strips": forecast.strips, "strip_rows": forecast.strip_rows,
            "recomputed": forecast.keeping.recomputed_passes(forecast.strips), "schedule": str(forecast),
        }  # fmt: skip
    with peak_memory(setting, record):
        record["loss"] = float(step(forward, network, image, HALF))  # and a warm-up
    most = 1 if setting.tiny else 3
    record["step_s"] = seconds(setting, lambda: step(forward, network, image, HALF), most)


def largest(setting: Setting) -> Iterator[Record]:
    """One step of a ResNet-34 on the largest image, under 40 and under 11 GB of what the allocator took."""
    side = 96 if setting.tiny else 65536
    failed = []
    for budget, most in (("60MB", 1e9),) if setting.tiny else (("36GB", 40e9), ("9.5GB", 11e9)):
        network = resnet("resnet34", setting)
        streamed, image = stream(network, memory=budget), DrawnRows(side, side, setting.device)
        step(streamed, network, DrawnRows(64, 64, setting.device), HALF)  # what is made once
        record: Record = {"model": "resnet34", "side": side, "variant": f"memory={budget}", "most_bytes": most}
        try:
            _one_step(record, setting, streamed, network, image)
        except (torch.OutOfMemoryError, ValueError) as error:
            record["error"] = f"{type(error).__name__}: {error}".splitlines()[0]
        if "error" in record or record.get("reserved_bytes", 0) > most or not math.isfinite(record["loss"]):
            failed.append(f"{record['variant']}: {record}")
        yield record
        del network, streamed
        if setting.on_gpu:
            torch.cuda.empty_cache()
    if failed:
        raise MemoryError("; ".join(failed))


def _one_step(record: Record, setting: Setting, streamed: Any, network: nn.Module, image: DrawnRows) -> None:
    """Fill in the time and the memory of a single step, and their forecast."""
    with torch.autocast(setting.device.type, HALF):
        forecast = streamed.forecast(*image.shape[1:])
    record |= {"schedule": str(forecast), "forecast_bytes": forecast.memory_bytes}
    record |= {"strips": forecast.strips, "strip_rows": forecast.strip_rows}
    losses: list[Tensor] = []
    with peak_memory(setting, record):
        record["step_s"] = seconds(setting, lambda: losses.append(step(streamed, network, image, HALF)), most=1)
    record["loss"] = float(losses[0])
    record["tflop_per_s"] = forecast.training_operations / record["step_s"] / 1e12


def profiled(setting: Setting) -> Iterator[Record]:
    """Where the time of a streamed step goes: the share in which the device is busy, kernels by time, a trace."""
    side = 64 if setting.tiny else 8192
    network = resnet("resnet18", setting)
    image = DrawnRows(side, side, setting.device)
    options: dict[str, Record] = {"all recomputed": {"strip_rows": 16 if setting.tiny else 512}}
    if not setting.tiny:
        options["a quarter as high"] = {"strip_rows": 128}
    for variant, own in options.items():
        streamed = stream(network, keeping=Keeping(graphs=0), **own)
        step(streamed, network, image, HALF)
        activities = [torch.profiler.ProfilerActivity.CPU]
        activities += [torch.profiler.ProfilerActivity.CUDA] if setting.on_gpu else []
        run = partial(step, streamed, network, image, HALF)
        with torch.profiler.profile(activities=activities) as profile:
            step_s = seconds(setting, run, most=1)
        events = list(profile.events() or [])
        kernels = [event for event in events if event.device_type == DeviceType.CUDA]
        operators = sum(event.device_type == DeviceType.CPU and event.cpu_parent is None for event in events)
        if own is next(iter(options.values())):
            profile.export_chrome_trace(str(setting.folder / "trace.json.gz"))
        by_name: dict[str, float] = {}
        for kernel in kernels:
            by_name[kernel.name] = by_name.get(kernel.name, 0) + kernel.time_range.elapsed_us()
        slowest = sorted(by_name.items(), key=lambda pair: -pair[1])[:12]
        yield {
            "model": "resnet18", "side": side, "variant": variant, "strips": -(-side // own["strip_rows"]),
            "step_s": step_s, "kernels": len(kernels), "top_level_operators": operators,
            "busy": busy_us([(k.time_range.start, k.time_range.end) for k in kernels]) / step_s / 1e6,
            "slowest_us": {name[:90]: round(us) for name, us in slowest},
        }  # fmt: skip


def busy_us(spans: list[tuple[float, float]]) -> float:
    """Microseconds covered by spans, which may overlap."""
    covered, last = 0.0, -math.inf
    for start, end in sorted(spans):
        covered += max(0.0, end - max(start, last))
        last = max(last, end)
    return covered


def lightstream(setting: Setting) -> Iterator[Record]:
    """lightstream 1.0.7 with its square tiles, in bf16 autocast, the channels first."""
    constructor = load_benchmark("streaming_lightstream")
    importlib.import_module("lightstream.core.constructor")
    network: Any = resnet("resnet18", setting).to(memory_format=torch.contiguous_format)  # as it is probed
    stem = nn.Sequential(network.conv1, network.bn1, network.relu, network.maxpool)
    trunk = nn.Sequential(stem, network.layer1, network.layer2, network.layer3, network.layer4)
    tile = 1024 if setting.tiny else 2880
    streaming = constructor.build(trunk, tile, setting.device)
    head = nn.Sequential(network.avgpool, nn.Flatten(), network.fc)
    for side in (tile,) if setting.tiny else SIDES[:2]:
        image = DrawnRows(side, side, setting.device).whole()

        def run(image: Tensor = image) -> None:
            with torch.autocast(setting.device.type, HALF):
                features = streaming(image).requires_grad_()
                loss = head(features).float().logsumexp(1).sum()
            loss.backward()
            streaming.backward(image, features.grad)

        record: Record = {"model": "resnet18", "side": side, "variant": f"lightstream, tiles of {tile}"}
        with peak_memory(setting, record):
            run()
        record["step_s"] = seconds(setting, run, most=1 if setting.tiny else 2)
        yield record


def load_benchmark(name: str) -> Any:
    """A module of tests/benchmarks, which is no package."""
    path = Path(__file__).resolve().parents[1] / "benchmarks" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module
