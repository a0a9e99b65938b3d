"""A streamed training step on a large image, in a process of its own whose peak memory is measured."""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from streammodels import StreamedModule, StreamingResNet, stream

SIDE_PX = 4096
LARGER_PX = (8192, 16_384)
BUDGET = "600MB"
_STATUS = Path("/proc/self/status")


@dataclass(frozen=True)
class MeasuredStep:
    """A training step of a ResNet-9, all of it trained, on one square image.

    Attributes:
        seconds: Time of the step.
        peak_bytes: Memory above that of the process before it, which holds network and image.
        plain_bytes: Forecast of the same with the image in one piece, as plain training computes it.
        larger: Forecasts (streamed, plain) of larger squares, by their side in pixels.
    """

    seconds: float
    peak_bytes: int
    plain_bytes: int
    larger: dict[int, tuple[int, int]]


def measure_step(side_px: int = SIDE_PX) -> MeasuredStep:
    """Measure one step in a new process, and forecast the others."""
    arguments = [sys.executable, "-m", "slidestream.demo.memory", str(side_px)]
    answer = subprocess.run(arguments, capture_output=True, text=True, check=True).stdout.split()
    larger = {side: (forecast(side), forecast(side, plain=True)) for side in LARGER_PX}
    return MeasuredStep(float(answer[0]), int(answer[1]), forecast(side_px, plain=True), larger)


def forecast(side_px: int, *, plain: bool = False) -> int:
    """Estimated peak bytes of a training step above network and image.

    Args:
        side_px: Side of the image.
        plain: With the image in one strip, instead of strips that fit into `BUDGET`.
    """
    trunk = _network().streamed_trunk
    assert isinstance(trunk, StreamedModule)  # as streaming=True makes it
    streamed = stream(trunk.module, strip_rows=side_px) if plain else trunk
    return streamed.forecast(side_px, side_px).memory_bytes


def _network() -> StreamingResNet:
    return StreamingResNet("resnet9", weights=None, train_streaming_layers=True, memory=BUDGET)


def _step(side_px: int) -> None:
    """Take the step; print seconds and peak bytes."""
    network = _network()
    image = torch.randint(0, 256, (1, 3, side_px, side_px), dtype=torch.uint8)
    _restart_peak()
    before = _peak_bytes()
    started = time.perf_counter()
    loss = torch.nn.functional.cross_entropy(network(image), torch.tensor([1]))
    torch.autograd.backward(loss)
    print(time.perf_counter() - started, _peak_bytes() - before)


def _restart_peak() -> None:
    """Let the peak of this process begin anew: on Linux it includes that of the process it was started by."""
    if _STATUS.is_file():
        Path("/proc/self/clear_refs").write_text("5")


def _peak_bytes() -> int:
    """The largest resident memory of this process."""
    if _STATUS.is_file():
        line = next(line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    _step(int(sys.argv[1]))
