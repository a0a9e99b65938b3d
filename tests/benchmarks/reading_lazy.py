"""Speed of lazy rows, decoded straight from the file and through their libvips pipeline.

    python tests/benchmarks/reading_lazy.py                              # the figures of docs/benchmarks.md
    python tests/benchmarks/reading_lazy.py --threads 1 2 --repeats 3

Every row of a level once, from top to bottom in strips of 512, both ways in turn in one process. Pixels are compared by
their sum.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from reading import make_slide

STRIP_PX = 512


def main() -> None:
    """Measure each number of threads in a process of its own, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--width", type=int, default=32_768, help="of the slide; its level 1 is read")
    parser.add_argument("--folder", type=Path, default=Path("build/benchmarks"), help="where the slide is written")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    slide = make_slide(options.folder, options.width)
    if options.one:
        print("\n".join(rows_of(slide, options.repeats)))
        return
    columns = ["pipeline", "threads", "straight, s (CPU s)", "by the pipeline, s (CPU s)", "ratio", "of the CPU"]
    print(f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|", flush=True)
    for threads in options.threads:
        command = [sys.executable, __file__, "--one", "--repeats", str(options.repeats), "--width", str(options.width)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "VIPS_CONCURRENCY": str(threads)}
        subprocess.run([*command, "--folder", str(options.folder)], env=environment, check=True)


def rows_of(path: Path, repeats: int) -> list[str]:
    """Lines of the table, one for each pipeline."""
    from wsidata import Slide
    from wsidata.transforms.compose import Compose, he_train_transform
    from wsidata.transforms.geometry.affine import RandomD4
    from wsidata.transforms.geometry.crop import CropOrPad

    path.read_bytes()  # into the page cache
    variants: dict[str, dict[str, Any]] = {
        "level 1 as it is": {"level": 1},
        "resampled by 1.5": {"downsample": 3.0},
        "tissue packed": {"level": 1, "crop": "pack"},
        "turned and cropped": {"level": 1, "transform": Compose([RandomD4(), CropOrPad(12_000)]), "seed": 1},
        "for H&E": {"level": 1, "transform": he_train_transform(4096), "seed": 1},
    }
    straight, lines = Slide.regions, []
    with Slide(path) as slide:
        for name, options in variants.items():
            times: dict[bool, list[tuple[float, float, int]]] = {True: [], False: []}
            for way in [True, False] * repeats:
                Slide.regions = straight if way else lambda *_, **__: None  # type: ignore[method-assign,assignment]
                times[way].append(measured(slide.lazy(**options)))
            assert len({total for found in times.values() for _, _, total in found}) == 1, "the pixels differ"
            (wall, cpu), (slow_wall, slow_cpu) = (
                [statistics.median(one[place] for one in times[way]) for place in (0, 1)] for way in (True, False)
            )
            threads, ratios = os.environ["VIPS_CONCURRENCY"], f"{slow_wall / wall:.1f} | {slow_cpu / cpu:.1f}"
            lines.append(
                f"| {name} | {threads} | {wall:.2f} ({cpu:.2f}) | {slow_wall:.2f} ({slow_cpu:.2f}) | {ratios} |"
            )
    return lines


def measured(image: Any) -> tuple[float, float, int]:
    """Wall time (s), CPU time without system time (s), and the sum of some pixels."""
    total, height = 0, image.shape[1]
    wall, cpu = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF).ru_utime
    for start in range(0, height, STRIP_PX):
        total += int(image.rows(start, min(start + STRIP_PX, height))[:, ::7, ::7].sum())
    return time.perf_counter() - wall, resource.getrusage(resource.RUSAGE_SELF).ru_utime - cpu, total


if __name__ == "__main__":
    main()
