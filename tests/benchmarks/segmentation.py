"""Time and peak memory of a training step of a U-Net whose map is never whole, by image height.

    python tests/benchmarks/segmentation.py --quick
    python tests/benchmarks/segmentation.py

Rows of the image and of the class map are drawn from a seed when they are read, and the cross entropy of the map is
summed strip by strip. Each height is measured in a fresh process; the peak is above a small step before.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import torch
from by_height import measure_each
from torch import Tensor, nn

HEADER = "| height x width | step, s | CPU time, s | peak above baseline, GB | loss |\n|---|---|---|---|---|"
BLOCK_ROWS = 64
CLASSES = 3


@dataclass
class DrawnRows:
    """Noise whose rows are generated when they are read, deterministically; values below `limit`."""

    shape: tuple[int, ...]
    limit: int = 256
    dtype: torch.dtype = torch.uint8
    name: str = "drawn"

    def rows(self, start: int, stop: int) -> Tensor:
        """(C, stop - start, W), or (stop - start, W) where the shape has no channels."""
        first = start // BLOCK_ROWS
        blocks = [self._block(block) for block in range(first, -(-stop // BLOCK_ROWS))]
        return torch.cat(blocks, dim=-2)[..., start - first * BLOCK_ROWS : stop - first * BLOCK_ROWS, :]

    def _block(self, block: int) -> Tensor:
        generator = torch.Generator().manual_seed(block)
        shape = (*self.shape[:-2], BLOCK_ROWS, self.shape[-1])
        return torch.randint(0, self.limit, shape, dtype=self.dtype, generator=generator)


def double_convolution(inputs: int, outputs: int) -> nn.Sequential:
    """Two convolutions of 3 x 3 pixels, each with a rectifier."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU(), nn.Conv2d(outputs, outputs, 3, padding=1), nn.ReLU()
    )


class UNet(nn.Module):
    """The U-Net of Ronneberger et al. (arXiv 1505.04597), padded, with transposed convolutions; of any width.

    Args:
        width: Channels at full resolution; each of the `depth` halvings doubles them.
        depth: Number of halvings.
    """

    def __init__(self, width: int = 8, depth: int = 4) -> None:
        super().__init__()
        channels = [width * 2**level for level in range(depth + 1)]
        self.first = double_convolution(3, width)
        self.down = nn.ModuleList(double_convolution(a, b) for a, b in pairwise(channels))
        self.up = nn.ModuleList(nn.ConvTranspose2d(b, a, 2, stride=2) for a, b in reversed([*pairwise(channels)]))
        self.merge = nn.ModuleList(double_convolution(2 * a, a) for a in reversed(channels[:-1]))
        self.last = nn.Conv2d(width, CLASSES, 1)

    def forward(self, image: Tensor) -> Tensor:
        """(B, classes, H, W) scores of an image whose sides are multiples of 2 to the `depth`."""
        maps = [self.first(image)]
        for block in self.down:
            maps.append(block(nn.functional.max_pool2d(maps[-1], 2)))
        found = maps.pop()
        for up, merge in zip(self.up, self.merge, strict=True):
            found = merge(torch.cat([maps.pop(), up(found)], dim=1))
        return cast("Tensor", self.last(found))


class Trained(nn.Module):
    """A network and its loss, since only the loss leaves the strips."""

    def __init__(self, network: nn.Module, loss: nn.Module) -> None:
        super().__init__()
        self.network, self.loss = network, loss

    def forward(self, image: Tensor, target: Tensor) -> Tensor:
        """(B,) losses."""
        return cast("Tensor", self.loss(self.network(image), target))


def measure(options: argparse.Namespace, height: int) -> dict[str, Any]:
    """Measure one step, in this process."""
    from streaming_worker import resident_bytes, settle_memory

    from streammodels import Labels, PixelCrossEntropy, stream

    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    module = Trained(UNet(options.channels), PixelCrossEntropy())
    streamed = stream(module, **({"strip_rows": options.strips} if options.strips else {"memory": options.memory}))
    image = DrawnRows((3, height, options.width))
    target = DrawnRows((height, options.width), CLASSES)
    small = torch.rand(1, 3, 128, 128), Labels(torch.zeros(1, 128, 128, dtype=torch.uint8))
    stream(module, strip_rows=64)(*small).mean().backward()
    module.zero_grad()
    settle_memory()
    baseline, begun, begun_cpu = resident_bytes("VmRSS"), time.perf_counter(), time.process_time()
    loss = streamed(image, Labels(target)).mean()
    loss.backward()
    step_s, cpu_s = time.perf_counter() - begun, time.process_time() - begun_cpu
    return {
        "height": height, "width": options.width, "step_s": step_s, "cpu_s": cpu_s, "loss": loss.item(),
        "peak_above_baseline_bytes": resident_bytes("VmHWM") - baseline,
        "gradient": sum(float(p.grad.double().norm()) for p in module.parameters() if p.grad is not None),
    }  # fmt: skip


def row(record: dict[str, Any]) -> str:
    """One line of the table."""
    cells = [
        f"{record['height']} x {record['width']}", f"{record['step_s']:.1f}", f"{record['cpu_s']:.1f}",
        f"{record['peak_above_baseline_bytes'] / 1e9:.3f}", f"{record['loss']:.6f}",
    ]  # fmt: skip
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    """Measure each height in a fresh process and print the table as it grows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--heights", type=int, nargs="+", default=[4096, 16384, 65536], help="(4096 16384 65536)")
    parser.add_argument("--width", type=int, default=2048, help="(2048)")
    parser.add_argument("--quick", action="store_true", help="512 and 1024 rows of 256 px, to see that it works")
    parser.add_argument("--channels", type=int, default=4, help="of the U-Net at full resolution (4)")
    parser.add_argument("--memory", default="1GB", help="budget (1GB)")
    parser.add_argument("--strips", type=int, help="strip height instead, px, all carries kept")
    parser.add_argument("--threads", type=int, default=1, help="(1)")
    parser.add_argument("--out", type=Path, default=Path("build/benchmarks/segmentation.jsonl"))
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)  # in a fresh process: this height
    options = parser.parse_args()
    if options.quick:
        options.heights, options.width = [512, 1024], 256
    measure_each(options, HEADER, measure, row)


if __name__ == "__main__":
    main()
