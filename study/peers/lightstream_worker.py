"""One measurement of `lightstream_compare`, in a process of its own, printed as a line of JSON.

    python -m study.peers.lightstream_worker step ours FOLDER 4096 2900MB
    python -m study.peers.lightstream_worker step theirs FOLDER 4096 2560
    python -m study.peers.lightstream_worker exact ours - 1184 256
    python -m study.peers.lightstream_worker tile theirs - 8192 1280

The CPU seconds and the peak of resident memory of a step, counted from the batch being there; the difference to plain
PyTorch in double precision; or the memory of two tiles of the backward pass, which is that of all of them.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import resource
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torchvision
from lightning import Callback, Trainer
from torch import Tensor, nn

from study.memory import resident_bytes, settle_memory

CPU_ONLY = torch.device("cpu")


class Meter(Callback):
    """CPU seconds of the first step, and resident memory before it and at its peak."""

    def __init__(self) -> None:
        self.found: dict[str, float] = {}

    def on_train_batch_start(self, *_: Any) -> None:
        """The batch is there."""
        settle_memory()
        self.found = {"before_bytes": resident_bytes(), "before_s": time.process_time()}
        self._started = time.process_time()

    def on_train_batch_end(self, *_: Any) -> None:
        """The optimizer has stepped."""
        self.found |= {"step_cpu_s": time.process_time() - self._started, "peak_bytes": resident_bytes("VmHWM")}


@contextlib.contextmanager
def without_cuda() -> Iterator[None]:
    """Networks stay on the CPU, which lightstream moves to CUDA whatever its options say; its prints are left out."""
    warnings.filterwarnings("ignore", message=".*CUDA is not available.*")
    cuda = mock.patch.object(nn.Module, "cuda", lambda self, device=None: self)
    with cuda, contextlib.redirect_stdout(io.StringIO()):
        yield


def step(which: str, folder: Path, side: int, size: str) -> dict[str, Any]:
    """One optimizer step of one of the two scripts."""
    meter = Meter()
    trainer = Trainer(
        max_epochs=1, limit_train_batches=1, limit_val_batches=0, accelerator="cpu", callbacks=[meter], logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    if which == "ours":
        from study.peers import lightstream_ours as ours

        ours.train(folder, trainer, 0, side, size)
    else:
        from study.peers import lightstream_theirs as theirs

        with tempfile.TemporaryDirectory() as scratch, contextlib.chdir(scratch), without_cuda():  # for its tile cache
            theirs.train(folder, trainer, 0, side, int(size))
    return {**meter.found, "process_peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}


# -- exactness ---------------------------------------------------------------------------------------------------------


def trunk() -> nn.Sequential:
    """A ResNet-18 up to its last map, in double precision, with statistics of batch normalization as if trained."""
    torch.manual_seed(0)
    network = torchvision.models.resnet18(weights=None)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.bias, std=0.1)
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            assert layer.running_mean is not None
            assert layer.running_var is not None
            layer.running_mean.normal_(std=0.1)
            layer.running_var.uniform_(0.5, 1.5)
    layers = [network.conv1, network.bn1, network.relu, network.maxpool, *list(network.children())[4:8]]
    return nn.Sequential(*layers).double().eval()


def plain(image: Tensor, weight: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Feature map and gradients of plain PyTorch."""
    network, image = trunk(), image.clone().requires_grad_()
    output = network(image)
    loss(output, weight).backward()  # type: ignore[no-untyped-call]
    return output.detach(), gradients(network, image)


def loss(output: Tensor, weight: Tensor) -> Tensor:
    """A loss that every place of the map has another gradient of."""
    return (output * output * weight).sum() / output[0, 0].numel()


def gradients(network: nn.Module, image: Tensor | None) -> dict[str, Tensor]:
    """Gradients by name; that of the image too."""
    named = {name: value.grad for name, value in network.named_parameters() if value.grad is not None}
    return named if image is None or image.grad is None else {**named, "image": image.grad}


def exact(which: str, side: int, size: int) -> dict[str, Any]:
    """Largest relative L2 distance to plain PyTorch: of the map, convolutions' weights, other parameters, the image."""
    torch.manual_seed(1)
    image = torch.randn(1, 3, side, side, dtype=torch.float64)
    weight = torch.rand(1, 512, 1, 1, dtype=torch.float64)
    expected, expected_gradients = plain(image, weight)
    if which == "ours":
        from streammodels import stream

        streamed, image = stream(trunk(), strip_rows=size), image.clone().requires_grad_()
        output = streamed(image)
        loss(output, weight).backward()  # type: ignore[no-untyped-call]
        found = gradients(streamed.module, image)
    else:
        network = theirs_of(size)
        output = network(image)
        if output.shape == expected.shape:
            output.requires_grad_()
            loss(output, weight).backward()  # type: ignore[no-untyped-call]
            network.backward(image, output.grad)
        found = gradients(network.stream_module, None)
    if output.shape != expected.shape:
        return {"map": f"{tuple(output.shape[2:])} instead of {tuple(expected.shape[2:])}"}
    errors = {"map": distance(output, expected)}
    for name, value in found.items():
        kind = "image" if name == "image" else "convolutions" if value.dim() == 4 else "normalization"
        errors[kind] = max(errors.get(kind, 0.0), distance(value, expected_gradients[name]))
    return errors


def theirs_of(tile: int) -> Any:
    """The trunk as a network of lightstream, built as its `StreamingResNet` does."""
    from lightstream.core.constructor import StreamingConstructor

    with without_cuda():
        constructor = StreamingConstructor(
            trunk(), tile, verbose=False, copy_to_gpu=False, normalize_on_gpu=False, add_keep_modules=[nn.BatchNorm2d]
        )
        network = constructor.prepare_streaming_model()
    network.device = CPU_ONLY
    return network


def distance(found: Tensor, expected: Tensor) -> float:
    """||found - expected|| / ||expected||."""
    return float((found.detach() - expected).norm() / expected.norm())


# -- memory of large images --------------------------------------------------------------------------------------------


def tile(side: int, size: int) -> dict[str, Any]:
    """Peak of lightstream's backward pass, which is stopped after two tiles: all have the same size.

    The map and its gradient are there in full, and so is the image, in uint8.
    """
    from lightstream.models.resnet import StreamingResNet

    with tempfile.TemporaryDirectory() as scratch, contextlib.chdir(scratch), without_cuda():
        network = StreamingResNet("resnet18", tile_size=size, verbose=False).stream_network
    network.device = CPU_ONLY
    for layer in network.stream_module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.eval().requires_grad_(False)
    image = torch.full((1, 3, side, side), 200, dtype=torch.uint8)
    output = torch.ones(1, 512, side // 32, side // 32)  # what its forward pass returns
    gradient = torch.ones_like(output)
    settle_memory()
    before, seen = resident_bytes(), []

    def stop(*_: Any) -> None:
        seen.append(resident_bytes())
        if len(seen) == 3:
            raise KeyboardInterrupt

    network.stream_module.register_forward_pre_hook(stop)
    with contextlib.suppress(KeyboardInterrupt):
        network.backward(image, gradient)
    return {"tiles": len(seen) - 1, "before_bytes": before, "peak_bytes": resident_bytes("VmHWM")}


def main() -> None:
    """Measure, and print."""
    torch.set_num_threads(1)
    what, which, folder, side, size = sys.argv[1:]
    if what == "step":
        found = step(which, Path(folder), int(side), size)
    elif what == "exact":
        found = exact(which, int(side), int(size))
    else:
        found = tile(int(side), int(size))
    print(json.dumps({**found, "load": os.getloadavg()[0]}))


if __name__ == "__main__":
    main()
