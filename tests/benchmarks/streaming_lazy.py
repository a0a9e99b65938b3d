"""Time and resident memory of a training step on images that are never whole, by image height.

    python tests/benchmarks/streaming_lazy.py --width 4096 --heights 4096 8192 16384 32768 65536 --strips 128
    python tests/benchmarks/streaming_lazy.py --width 32768 --heights 32768 --memory 1GB --slide build/large.tif

A small ResNet. Rows are generated from a seed when they are read, or decoded through wsidata from a tiled JPEG TIFF
(written first if there is none). Each image is measured in a fresh process; its peak above the baseline stands beside
the estimate of `StreamedModule.forecast`, and its largest resident memory beside both.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from by_height import measure_each
from torch import Tensor, nn

HEADER = (
    "| height x width | strips | step, s | CPU time, s | reading rows, s | peak above baseline, GB | "
    "forecast, GB | resident, GB |\n"
    "|---|---|---|---|---|---|---|---|"
)
BLOCK_ROWS = 64


@dataclass
class DrawnRows:
    """A noise image whose rows are generated when they are read, deterministically."""

    shape: tuple[int, int, int]
    dtype: torch.dtype = torch.uint8
    name: str = "drawn"

    def rows(self, start: int, stop: int) -> Tensor:
        """(3, stop - start, W) uint8."""
        first = start // BLOCK_ROWS
        blocks = [self._block(block) for block in range(first, -(-stop // BLOCK_ROWS))]
        return torch.cat(blocks, dim=1)[:, start - first * BLOCK_ROWS : stop - first * BLOCK_ROWS]

    def _block(self, block: int) -> Tensor:
        generator = torch.Generator().manual_seed(block)
        return torch.randint(0, 256, (3, BLOCK_ROWS, self.shape[2]), dtype=torch.uint8, generator=generator)


def write_slide(path: Path, height: int, width: int) -> None:
    """Write a tiled JPEG pyramid of smooth noise of any size, in bounded memory."""
    import pyvips

    small = pyvips.Image.gaussnoise(width // 64, height // 64, mean=180, sigma=40)
    bands = [small, small.rot180(), small.fliphor()]
    picture = bands[0].bandjoin(bands[1:]).cast("uchar").resize(64, kernel="linear").copy(interpretation="srgb")
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.gravity("centre", width, height).tiffsave(
        str(path), tile=True, tile_width=512, tile_height=512, compression="jpeg", Q=80, bigtiff=True, pyramid=False,
        xres=2000, yres=2000, resunit="cm",
    )  # fmt: skip


class Timed:
    """An image that sums the time of reading its rows, which happens in a background thread."""

    def __init__(self, image: Any) -> None:
        self.image, self.shape, self.dtype, self.name = image, image.shape, image.dtype, image.name
        self.read_s = 0.0

    def rows(self, start: int, stop: int) -> Tensor:
        """Rows of the image."""
        begun = time.perf_counter()
        rows: Tensor = self.image.rows(start, stop)
        self.read_s += time.perf_counter() - begun
        return rows


def narrow_resnet() -> nn.Module:
    """A stem and four residual blocks of 16, 32, 64 and 128 channels, half as wide as ResNet-9."""
    from torchvision.models.resnet import BasicBlock, conv1x1

    stem = [nn.Conv2d(3, 16, 7, 2, 3, bias=False), nn.BatchNorm2d(16), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)]
    blocks: list[nn.Module] = [BasicBlock(16, 16)]
    for channels in (16, 32, 64):
        shortcut = nn.Sequential(conv1x1(channels, 2 * channels, 2), nn.BatchNorm2d(2 * channels))
        blocks.append(BasicBlock(channels, 2 * channels, 2, shortcut))
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 2))


def measure(options: argparse.Namespace, height: int) -> dict[str, Any]:
    """Measure one step, in this process."""
    from streaming_worker import resident_bytes, settle_memory

    from streammodels import Keeping, stream
    from streammodels.models.resnet import build_resnet

    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    network = (build_resnet("resnet9", 2, None) if options.model == "resnet9" else narrow_resnet()).eval()
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.requires_grad_(False)
    sizes = {"memory": options.memory} if options.memory else {"strip_rows": options.strips}
    trunk = stream(network, **sizes, keeping=Keeping(every=options.every) if options.every else None)
    image = Timed(open_image(options, height))
    warm_up = trunk([torch.rand(3, 512, 512)])
    warm_up.sum().backward()
    network.zero_grad()
    forecast = trunk.forecast(height, options.width) if height >= options.width else None
    settle_memory()
    baseline, begun, begun_cpu = resident_bytes("VmRSS"), time.perf_counter(), time.process_time()
    logits = trunk(image)
    nn.functional.cross_entropy(logits, torch.tensor([1])).backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    step_s, cpu_s = time.perf_counter() - begun, time.process_time() - begun_cpu
    peak = resident_bytes("VmHWM")
    gradient = sum(float(p.grad.double().norm()) for p in network.parameters() if p.grad is not None)
    return {
        "height": height, "width": options.width, "strips": forecast.strips if forecast else None,
        "strip_rows": forecast.strip_rows if forecast else None,
        "step_s": step_s, "cpu_s": cpu_s, "read_s": image.read_s,
        "peak_above_baseline_bytes": peak - baseline, "resident_bytes": peak,
        "forecast_bytes": forecast.memory_bytes if forecast else None, "gradient": gradient,
    }  # fmt: skip


def open_image(options: argparse.Namespace, height: int) -> Any:
    """The image to train on."""
    if options.slide is None:
        return DrawnRows((3, height, options.width))
    from wsidata import Slide

    with Slide(options.slide) as slide:
        return slide.lazy(level=0)


def row(record: dict[str, Any]) -> str:
    """One line of the table."""
    forecast = record["forecast_bytes"]
    cells = [
        f"{record['height']} x {record['width']}", f"{record['strips']} of {record['strip_rows']}",
        f"{record['step_s']:.0f}", f"{record['cpu_s']:.0f}", f"{record['read_s']:.0f}",
        f"{record['peak_above_baseline_bytes'] / 1e9:.2f}",
        f"{forecast / 1e9:.2f}" if forecast else "-", f"{record['resident_bytes'] / 1e9:.2f}",
    ]  # fmt: skip
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    """Measure each height in a fresh process and print the table as it grows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=("resnet9", "narrow"), default="resnet9", help="(resnet9)")
    parser.add_argument("--heights", type=int, nargs="+", default=[4096, 8192, 16384], help="(4096 8192 16384)")
    parser.add_argument("--width", type=int, default=4096, help="(4096)")
    parser.add_argument("--strips", type=int, default=128, help="strip height, px (128)")
    parser.add_argument("--memory", help="budget instead, such as 1GB")
    parser.add_argument("--every", type=int, help="keep the carries of every so many strips only")
    parser.add_argument(
        "--slide", type=Path, help="read from this slide; written first, of that size, if it is not there"
    )
    parser.add_argument("--threads", type=int, default=1, help="(1)")
    parser.add_argument("--out", type=Path, default=Path("build/benchmarks/streaming_lazy.jsonl"))
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)  # in a fresh process: this height
    options = parser.parse_args()
    if options.slide is not None and not options.one and not options.slide.exists():
        write_slide(options.slide, options.heights[0], options.width)
    measure_each(options, HEADER, measure, row)


if __name__ == "__main__":
    main()
