"""Measurement of one training step of one variant, in a process of its own.

Order: build the model and the image, let lightstream probe, take one small warm-up step, give freed memory back to the
system, note the resident memory (the baseline), reset the kernel's high-water mark, take the timed step. The gradients
are compared with those of a reference variant afterwards, so that what is timed is also known to be right.

Run by streaming.py; not meant to be started by hand.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import streaming_lightstream
import torch
import torchvision
from streaming_tiles import TiledAverage
from streaming_variants import Job, Variant
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from streammodels import Keeping, stream

WARM_UP_SIDE_PX = 512
NUM_CLASSES = 2

Forward = Callable[[Tensor], Tensor]
Step = Callable[[Tensor, Tensor], float]


class Network(nn.Module):
    """A ResNet of torchvision in three parts: the trunk's stages (the stem and the blocks), pooling, classifier."""

    def __init__(self, model: str, dtype: torch.dtype) -> None:
        super().__init__()
        torch.manual_seed(0)
        network = getattr(torchvision.models, model)(weights=None, num_classes=NUM_CLASSES)
        stem = nn.Sequential(network.conv1, network.bn1, network.relu, network.maxpool)
        blocks = [*network.layer1, *network.layer2, *network.layer3, *network.layer4]
        self.trunk = nn.Sequential(stem, *blocks)
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.classifier = network.fc
        self.to(dtype).eval()
        for module in self.modules():  # the same for all: lightstream's gradients of the BatchNorm affine are wrong
            if isinstance(module, nn.BatchNorm2d):
                module.requires_grad_(False)


def build_step(variant: Variant, network: Network, side_px: int) -> tuple[Step, nn.Module, float]:
    """Turn a variant into a function that takes one training step on images of `side_px`.

    Returns:
        The step (image, label -> loss), the module that owns the trunk's parameters, and the seconds spent on building.
    """
    start = time.perf_counter()
    trunk: Any = network.trunk
    if variant.kind == "plain":
        forward: Forward = nn.Sequential(network.trunk, network.pool)
    elif variant.kind == "checkpoint":
        forward = _checkpointed(network)
    elif variant.kind in ("strips", "memory"):
        forward = _streamed(variant, nn.Sequential(network.trunk, network.pool), side_px)
    elif variant.kind == "tiles":
        forward = TiledAverage(network.trunk, variant.tile_px or side_px)
    else:
        trunk = streaming_lightstream.build(network.trunk, variant.tile_px or side_px)
        return _lightstream_step(trunk, network), trunk.stream_module, time.perf_counter() - start

    def step(image: Tensor, label: Tensor) -> float:
        network.zero_grad()
        loss = functional.cross_entropy(network.classifier(forward(image)), label)
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        return loss.item()

    return step, trunk, time.perf_counter() - start


def _streamed(variant: Variant, trunk: nn.Module, side_px: int) -> Forward:
    if variant.memory is not None:
        return stream(trunk, memory=variant.memory)
    assert variant.strip_rows is not None
    strips = -(-side_px // variant.strip_rows)
    graphs = {"none": 0, "half": strips // 2, "all": strips}[variant.kept]
    return stream(trunk, strip_rows=variant.strip_rows, keeping=Keeping(graphs=graphs))


def _checkpointed(network: Network) -> Forward:
    """Each residual block is recomputed, and so is the stem: its activations are the largest of all."""

    def forward(image: Tensor) -> Tensor:
        hidden: Tensor = image
        for stage in network.trunk:
            hidden = checkpoint(stage, hidden, use_reentrant=False)
        return network.pool(hidden)  # type: ignore[no-any-return]  # nn.Module.__call__ is typed Any

    return forward


def _lightstream_step(streaming: Any, network: Network) -> Step:
    def step(image: Tensor, label: Tensor) -> float:
        streaming.zero_grad()
        network.zero_grad()
        feature_map = streaming(image)
        feature_map.requires_grad_()
        loss = functional.cross_entropy(network.classifier(network.pool(feature_map)), label)
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        streaming.backward(image, feature_map.grad)
        return loss.item()

    return step


def random_image(side_px: int, dtype: torch.dtype) -> Tensor:
    """The same standard normal image (1, 3, side, side) in every process."""
    return torch.randn(1, 3, side_px, side_px, generator=torch.Generator().manual_seed(1), dtype=dtype)


def resident_bytes(field: str) -> int:
    """A value of /proc/self/status: `VmRSS`, the resident memory, or `VmHWM`, its peak since the last reset."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {field}: this benchmark needs Linux to measure memory.")


def settle_memory() -> None:
    """Return freed memory to the kernel and reset its high-water mark to the current resident memory."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")


def conv_gradients(trunk: nn.Module) -> list[Tensor]:
    """The gradients of all convolutions' weights, in the order of the layers."""
    convolutions = [parameter for parameter in trunk.parameters() if parameter.dim() == 4]
    missing = sum(parameter.grad is None for parameter in convolutions)
    if missing:
        raise RuntimeError(f"{missing} of {len(convolutions)} convolution weights got no gradient: nothing to compare.")
    return [parameter.grad for parameter in convolutions if parameter.grad is not None]


def largest_relative_error(gradients: list[Tensor], reference: list[Tensor]) -> float:
    """Largest relative L2 distance over the layers, ||g - r|| / ||r||, summed in float64."""
    pairs = zip(gradients, reference, strict=True)
    return max(float((g.double() - r.double()).norm() / r.double().norm()) for g, r in pairs)


def saved_bytes_per_pixel(step: Step, network: Network, image: Tensor, label: Tensor) -> float:
    """Bytes autograd keeps for the backward pass per input pixel; each storage counts once, model and image do not."""
    model = [*network.parameters(), *network.buffers(), image]
    sizes = dict.fromkeys((tensor.untyped_storage().data_ptr() for tensor in model), 0)
    kept: list[Tensor] = []  # no storage may be freed and its address used again while we count

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        sizes.setdefault(storage.data_ptr(), storage.nbytes())
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        step(image, label)
    kept.clear()
    return sum(sizes.values()) / image[0, 0].numel()


def measure(job: Job) -> dict[str, Any]:
    """Run one job and return its figures: seconds and bytes."""
    dtype = {"float32": torch.float32, "float64": torch.float64}[job.dtype]
    torch.set_num_threads(job.threads)
    network = Network(job.model, dtype)
    image, label = random_image(job.side_px, dtype), torch.tensor([1])
    built_bytes = resident_bytes("VmRSS")
    step, trunk, build_s = build_step(job.variant, network, job.side_px)

    warm_up_image = random_image(job.variant.tile_px or WARM_UP_SIDE_PX, dtype)
    step(warm_up_image, label)
    saved = saved_bytes_per_pixel(step, network, warm_up_image, label) if job.variant.kind == "plain" else None
    network.zero_grad()
    trunk.zero_grad()
    del warm_up_image
    settle_memory()
    baseline_bytes = resident_bytes("VmRSS")

    load_before = os.getloadavg()[0]
    cpu_start, start = time.process_time(), time.perf_counter()
    loss = step(image, label)
    step_s, cpu_s = time.perf_counter() - start, time.process_time() - cpu_start
    peak_bytes = resident_bytes("VmHWM")

    gradients = conv_gradients(trunk)
    if job.gradients_path:
        torch.save(gradients, job.gradients_path)
    reference = torch.load(job.reference_path) if job.reference_path else None
    return {
        "step_s": step_s,
        "cpu_s": cpu_s,
        "build_s": build_s,
        "peak_above_baseline_bytes": peak_bytes - baseline_bytes,
        "peak_bytes": peak_bytes,
        "built_bytes": built_bytes,
        "baseline_bytes": baseline_bytes,
        "maxrss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "saved_bytes_per_pixel": saved,
        "loss": loss,
        "gradient_error": largest_relative_error(gradients, reference) if reference else None,
        "load_before": load_before,
        "torch": torch.__version__,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
    }


def main() -> None:
    """Read the job from the command line, write its result to the file it names."""
    job = Job.from_dict(json.loads(sys.argv[1]))
    Path(job.result_path).write_text(json.dumps(measure(job)))


if __name__ == "__main__":
    main()
