"""Check and measure streaming on a GPU, in at most 8 minutes.

    make gpu                                                       # the tests, then this
    python tests/gpu/check.py --json build/gpu/check.json          # this alone; needs no installation of the project
    python tests/gpu/check.py --json check.json --device cpu --tiny          # to see that it runs
    python tests/gpu/report.py build/gpu/check.json                # the section of docs/benchmarks.md from its figures

Blocks that lack a package, such as those that read slides where pyvips is not installed, are skipped; lightstream 1.0.7
is measured where it is installed. What is measured is written to the JSON file as it is measured (`blocks.py`). The
exit status is 1 if a block failed.
"""

from __future__ import annotations

import argparse
import platform
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(path) for path in (TESTS, TESTS.parent) if str(path) not in sys.path]

import torch  # noqa: E402
import torchvision  # noqa: E402

from gpu import end_to_end, exact, precision, speed  # noqa: E402
from gpu.blocks import Block, Record, Setting, run_blocks  # noqa: E402
from gpu.report import tables  # noqa: E402

BLOCKS = {  # what is worth most first
    "exact": Block(exact.exact, 60),
    "resnet18": Block(speed.resnet18, 80),
    "largest": Block(speed.largest, 120),
    "waits": Block(exact.waits, 20),
    "profile": Block(speed.profiled, 40),
    "precision": Block(precision.precision, 30),
    "parallel": Block(exact.parallel, 20),
    "random networks": Block(exact.random_networks, 40),
    "resnet50": Block(speed.resnet50, 70),
    "resnet34": Block(speed.resnet34, 60),
    "end to end": Block(end_to_end.end_to_end, 80),
    "lightstream": Block(speed.lightstream, 60),
}


def machine(setting: Setting) -> Record:
    """What the figures depend on."""
    found: Record = {
        "device": platform.processor() or platform.machine(), "kind": setting.device.type, "tiny": setting.tiny,
        "torch": torch.__version__, "torchvision": torchvision.__version__, "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d"),
    }  # fmt: skip
    if setting.on_gpu:
        own = torch.cuda.get_device_properties(setting.device)
        found |= {"device": own.name, "memory_bytes": own.total_memory, "cuda": torch.version.cuda}
        found |= {"cudnn": torch.backends.cudnn.version()}
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the arguments, run the blocks, print a summary."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, default=Path("build/gpu/check.json"), help="(build/gpu/check.json)")
    parser.add_argument("--device", default="cuda", help="(cuda)")
    parser.add_argument("--tiny", action="store_true", help="tiny images, to see that everything runs")
    parser.add_argument("--minutes", type=float, default=8.0, help="that all may take together (8)")
    parser.add_argument("--blocks", nargs="+", choices=BLOCKS, default=list(BLOCKS), help="only these")
    options = parser.parse_args(arguments)
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print("There is no CUDA device here, so nothing was checked. Without one: --device cpu --tiny.")
        return 0
    folder = options.json.resolve().parent
    folder.mkdir(parents=True, exist_ok=True)
    setting = Setting(device, options.tiny, folder)
    chosen = {name: BLOCKS[name] for name in options.blocks}
    if options.tiny:  # it is about whether they run, also on a busy machine
        chosen = {name: replace(block, limit_s=60 * options.minutes) for name, block in chosen.items()}
    results = run_blocks(chosen, setting, options.json, machine(setting), 60 * options.minutes)
    print(tables({"blocks": results}))
    return int(any(result["status"] == "failed" for result in results.values()))


if __name__ == "__main__":
    sys.exit(main())
