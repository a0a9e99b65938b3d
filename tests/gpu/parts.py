"""Images, networks and measures that several blocks use."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint
from torchvision.models.resnet import BasicBlock, ResNet

from gpu.blocks import Record, Setting


class DrawnRows:
    """A (3, H, W) uint8 image of noise whose rows are made when they are read, on any device, the same every time.

    The channels are last in memory, as decoders return them, and in which convolutions of half precision are fastest.
    """

    dtype = torch.uint8
    name = "drawn"
    pixel_version = 0  # they never change

    def __init__(self, height: int, width: int, device: torch.device) -> None:
        self.shape = (3, height, width)
        generator = torch.Generator().manual_seed(3)
        row = torch.randint(256, (1, width, 3), dtype=torch.uint8, generator=generator)
        keys = torch.randint(256, (2, height, 1, 1), dtype=torch.uint8, generator=generator)
        self._row, self._keys = row.to(device), keys.to(device)

    def rows(self, start: int, stop: int) -> Tensor:
        """(3, stop - start, W), where the image was made."""
        factor, key = self._keys[:, start:stop]
        return torch.bitwise_xor(self._row * (factor | 1), key).permute(2, 0, 1)

    def whole(self) -> Tensor:
        """(1, 3, H, W) floats from 0 to 1."""
        return self.rows(0, self.shape[1])[None].float().div_(255)


class _Thin(ResNet):
    """A ResNet with a block in each stage, and a sixteenth of its channels, for tiny images."""

    def _make_layer(self, block: Any, planes: int, *args: Any, **options: Any) -> nn.Sequential:
        return super()._make_layer(block, planes // 16, *args, **options)

    def __init__(self) -> None:
        super().__init__(BasicBlock, [1, 1, 1, 1])
        self.fc = nn.Linear(32, 2)


def resnet(name: str, setting: Setting, dtype: torch.dtype = torch.float32) -> nn.Module:
    """A ResNet of torchvision with two classes, its batch normalization frozen in eval mode, the channels last."""
    torch.manual_seed(0)
    network = _Thin() if setting.tiny else getattr(torchvision.models, name)(weights=None, num_classes=2)
    network.eval()
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.requires_grad_(False)
    moved: nn.Module = network.to(setting.device, dtype, memory_format=torch.channels_last)
    return moved


def checkpointed(network: Any) -> Callable[[Tensor], Tensor]:
    """The forward of a ResNet with the stem and every residual block recomputed in the backward pass."""
    stem = nn.Sequential(network.conv1, network.bn1, network.relu, network.maxpool)
    parts = [stem, *network.layer1, *network.layer2, *network.layer3, *network.layer4]

    def forward(image: Tensor) -> Tensor:
        for part in parts:
            image = checkpoint(part, image, use_reentrant=False)
        result: Tensor = network.fc(network.avgpool(image).flatten(1))
        return result

    return forward


def step(forward: Callable[[Any], Tensor], network: nn.Module, image: Any, half: torch.dtype | None) -> Tensor:
    """The loss of a training step, without the optimizer; half precision is that of autocast."""
    network.zero_grad(set_to_none=True)
    device = next(network.parameters()).device
    with torch.autocast(device.type, half or torch.bfloat16, enabled=half is not None):
        logits = forward(image)
    loss = functional.cross_entropy(logits.float(), torch.ones(len(logits), dtype=torch.int64, device=device))
    loss.backward()  # type: ignore[no-untyped-call]
    return loss.detach()


@contextmanager
def peak_memory(setting: Setting, record: Record) -> Iterator[None]:
    """Write into the record how far the memory of a GPU grows, and how large it is at most."""
    if not setting.on_gpu:
        yield
        return
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(setting.device)
    before = torch.cuda.memory_allocated(setting.device)
    try:
        yield
    finally:
        peak = torch.cuda.max_memory_allocated(setting.device)
        record |= {"peak_bytes": peak - before, "allocated_bytes": peak}
        record["reserved_bytes"] = torch.cuda.max_memory_reserved(setting.device)


def seconds(setting: Setting, run: Callable[[], object], most: int = 3, enough_s: float = 2.0) -> float:
    """The fastest of up to `most` runs, which stop when they have taken `enough_s` together."""
    found: list[float] = []
    while len(found) < most and sum(found) < enough_s:
        setting.wait()
        begun = time.perf_counter()
        run()
        setting.wait()
        found.append(time.perf_counter() - begun)
    return min(found)


def flat_grads(network: nn.Module) -> Tensor:
    """All gradients, side by side, on the host."""
    return torch.cat([p.grad.float().flatten() for p in network.parameters() if p.grad is not None]).cpu()


def relative(actual: Tensor, expected: Tensor) -> float:
    """L2 distance, relative to the length of what is expected."""
    return float((actual.double() - expected.double()).norm() / expected.double().norm().clamp(min=1e-300))
