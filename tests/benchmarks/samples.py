"""Cost of training samples, as ratios to decoding the same tiles.

    python tests/benchmarks/samples.py --quick           # a level of 1024 px, to see that it works
    python tests/benchmarks/samples.py                   # the figures of docs/benchmarks.md
    python tests/benchmarks/samples.py --growth 2000     # memory of a worker over 2,000 samples

A level of 4096 x 4096 px in JPEG tiles. "limit" is libjpeg-turbo over the bytes of the same tiles, nothing kept, the
file open; samples include opening it, and converting to a tensor. One thread. Times are CPU seconds with the system's
share: everything is measured in turn in one process, once for each of the eight symmetries in each of `--passes`; of
each symmetry's times the median counts, and of the eight medians the mean. Through a worker, the times are those of
worker and parent together over epochs of eight samples, the eight symmetries; the first epoch is not counted.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from shutil import copy
from tempfile import TemporaryDirectory
from typing import Any

os.environ |= {"OMP_NUM_THREADS": "1", "VIPS_CONCURRENCY": "1"}

import pandas as pd
import pyvips
import torch
from reading import make_slide
from reading_readers import Limit
from samples_tutorial import tutorial_dataset
from torch.utils.data import DataLoader

from wsidata import Slide
from wsidata.datasets.loader import make_loader
from wsidata.datasets.slides import SlideDataset
from wsidata.slides.tissue.packing import Packing
from wsidata.transforms import Sample, default_eval_transform, default_train_transform, he_train_transform
from wsidata.transforms.geometry.affine import Symmetry

SYMMETRIES = [(turns, mirrored) for turns in range(4) for mirrored in (False, True)]
FACTOR = 1.6
"""Level-0 pixels per pixel of the resampled samples: between levels, which are 1 and 2."""
STRIP_PX = 512
COPIES = 24
"""Copies of the slide for a turn, of which eight are read: as many as contain all symmetries, most likely."""
TARGETS = {
    "whole level": 1.25,
    "whole level, in strips of rows": 1.25,
    "sample, default transform": 1.5,
    "the same through one worker": 1.8,
    "H&E preset": 2.5,
    f"resampled by {FACTOR}": 2.5,
    "tissue packed": 1.6,
    "lazy rows, turned": 1.5,
}
"""The most that is aimed at, as a ratio to the limit."""
TARGET_SPEEDUP = 8.0
"""Through one worker, over the tutorial's class through one worker."""
TARGET_OPENING_MS = 10.0
Measured = dict[str, dict[int, list[float]]]
"""CPU seconds by row of the table and number of the symmetry."""


@dataclass
class Bench:
    """What is measured.

    Attributes:
        slide: The file.
        side: Width and height of its level 0.
        limit: Decodes tiles, and keeps nothing.
        rows: For each row of the table, what makes one sample of the symmetry of that number.
        times: CPU seconds.
    """

    slide: Path
    side: int
    limit: Limit
    rows: dict[str, Callable[[int], Any]] = field(default_factory=dict)
    times: Measured = field(default_factory=lambda: defaultdict(lambda: defaultdict(list)))

    def dataset(self, transform: Any, paths: Sequence[Path] = (), **options: Any) -> SlideDataset:
        """A data set of slides; without any, of the slide, repeated."""
        files = [str(path) for path in paths or [self.slide] * 64]
        names = [f"slide {row}" for row in range(len(files))]
        table = pd.DataFrame({"image_id": names, "path": files, "label": 0})
        return SlideDataset(table, options.pop("resolution", {"level": 0}), transform, **options)

    def turn(self) -> None:
        """Measure every row for every symmetry."""
        for symmetry in range(len(SYMMETRIES)):
            for name, make in self.rows.items():
                start = time.process_time()
                touch(make(symmetry))
                self.times[name][symmetry].append(time.process_time() - start)


def main() -> None:
    """Measure, and print the table."""
    options = arguments()
    torch.set_num_threads(1)
    side = 1024 if options.quick else 4096
    slide = make_slide(options.folder, side)
    slide.read_bytes()  # into the page cache
    bench = Bench(slide, side, Limit(slide))
    if options.growth:
        print(growth(bench, options.growth))
        return
    with TemporaryDirectory(dir=options.folder) as copies:
        add_rows(bench, [Path(copy(slide, f"{copies}/{row}.tif")) for row in range(COPIES * (options.passes + 1))])
        bench.turn()
        bench.times.clear()  # the first turn warms up
        for _ in range(options.passes):
            bench.turn()
    through_worker(bench, options.passes)
    print(table(bench))
    print(f"load average {os.getloadavg()[0]:.1f}, {os.cpu_count()} processors")


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a level of 1024 px, one pass")
    parser.add_argument("--passes", type=int, help="default 3")
    parser.add_argument("--growth", type=int, metavar="SAMPLES", help="measure the memory of a worker instead")
    parser.add_argument("--folder", type=Path, default=Path("build/benchmarks"), help="where the slide is written")
    options = parser.parse_args()
    options.passes = options.passes or (1 if options.quick else 3)
    return options


def add_rows(bench: Bench, copies: Sequence[Path]) -> None:
    """Everything that is measured in this process; `copies` of the slide are each opened once."""
    side = bench.side
    train = bench.dataset(default_train_transform(side))
    stained = bench.dataset(he_train_transform(side))
    resampled = bench.dataset(default_train_transform(None), resolution={"downsample": FACTOR})
    packed = bench.dataset(default_train_transform(None), crop="pack")
    lazy = bench.dataset(default_train_transform(side), lazy=True)
    plain = bench.dataset(default_eval_transform(None), lazy=True)
    draws = {id(one): indices(one) for one in (train, stained, resampled, packed, lazy)}
    transposing = [index for index, (turns, _) in zip(draws[id(lazy)], SYMMETRIES, strict=True) if turns % 2]
    tiles = tiles_of(packed.packing(0), bench.limit)
    tutorial = tutorial_dataset([bench.slide], page=0, image_size=side)
    unopened = bench.dataset(default_train_transform(side), copies)
    once = [iter(found) for found in all_indices(unopened)]
    bench.rows = {
        "limit": lambda _: bench.limit.level(0),
        "limit of the packed": lambda _: bench.limit.decode(0, tiles),
        "opening": lambda _: opened(bench.slide),
        "whole level": lambda _: whole(bench.slide),
        "whole level, in strips of rows": lambda _: strips(plain.image(0)),
        "sample, default transform": lambda symmetry: train.image(draws[id(train)][symmetry]),
        "the same of a slide not opened before": lambda symmetry: unopened.image(next(once[symmetry])),
        "H&E preset": lambda symmetry: stained.image(draws[id(stained)][symmetry]),
        f"resampled by {FACTOR}": lambda symmetry: resampled.image(draws[id(resampled)][symmetry]),
        "tissue packed": lambda symmetry: packed.image(draws[id(packed)][symmetry]),
        "lazy rows, turned": lambda symmetry: strips(lazy.image(transposing[symmetry % len(transposing)])),
        "the tutorial's class": lambda _: tutorial[0][0],
    }


def indices(dataset: SlideDataset) -> list[int]:
    """An index for each of the eight symmetries at which the data set draws it."""
    return [found[0] for found in all_indices(dataset)]


def all_indices(dataset: SlideDataset) -> list[list[int]]:
    """The indices of a data set by the symmetry that it draws."""
    blank, found = pyvips.Image.black(64, 64, bands=3), defaultdict(list)
    for index in range(len(dataset)):
        for operation in dataset.transform.run(Sample(blank), dataset.generator(index)).operations:
            if isinstance(operation, Symmetry):
                found[operation.turns, operation.mirrored].append(index)
    return [found[symmetry] for symmetry in SYMMETRIES]


def tiles_of(packing: Packing | None, limit: Limit) -> set[int]:
    """Numbers of the tiles of level 0 that the pieces of a packing touch."""
    assert packing is not None
    return {
        tile for one in packing.pieces for tile in limit.tiles_at(0, one.x, one.y, one.width, one.height)
    }  # fmt: skip


def opened(path: Path) -> None:
    with Slide(path):
        pass


def whole(path: Path) -> Any:
    with Slide(path) as slide:
        return torch.from_numpy(slide.numpy(level=0)).permute(2, 0, 1)


def strips(image: Any) -> Iterator[Any]:
    """All rows of a lazy image, from top to bottom."""
    for start in range(0, image.shape[1], STRIP_PX):
        yield image.rows(start, min(start + STRIP_PX, image.shape[1]))


def touch(sample: Any) -> None:
    """Use a sample: some of its pixels, or of those of its strips."""
    for image in [sample] if isinstance(sample, torch.Tensor) else sample if isinstance(sample, Iterator) else []:
        image[..., 0, ::64, ::64].sum()


def through_worker(bench: Bench, passes: int) -> None:
    """Measure our samples and the tutorial's through a worker, and the limit in turn with them."""
    ours = bench.dataset(default_train_transform(bench.side))
    tutorial = tutorial_dataset([bench.slide] * len(SYMMETRIES), page=0, image_size=bench.side)
    loaders: dict[str, DataLoader[Any]] = {
        "the same through one worker": make_loader(ours, rows=indices(ours), num_workers=1),
        "the tutorial's class through one worker": DataLoader(
            tutorial, num_workers=1, multiprocessing_context="forkserver", persistent_workers=True
        ),  # forked, as there, it hangs: libvips has run here
    }
    for turn in range(passes + 1):
        for name, loader in loaders.items():
            cpu_s = epoch(loader)
            start = time.process_time()
            touch(bench.limit.level(0))
            if turn:
                bench.times[name][0].append(cpu_s / len(SYMMETRIES))
                bench.times["limit"][0].append(time.process_time() - start)


def epoch(loader: DataLoader[Any]) -> float:
    """CPU seconds of this process and the loader's workers for one epoch; the workers are idle before and after.

    Every page of a sample is read here, as a copy to a device does.
    """
    workers = getattr(loader._iterator, "_workers", ())
    before = sum(map(cpu_seconds, [os.getpid(), *(worker.pid for worker in workers)]))
    for image, _ in loader:
        torch.empty(0, dtype=torch.uint8).set_(image.untyped_storage())[:: os.sysconf("SC_PAGE_SIZE")].sum()
    del image
    pids = [os.getpid(), *(worker.pid for worker in loader._iterator._workers)]  # type: ignore[union-attr]
    return sum(map(cpu_seconds, pids)) - before


def cpu_seconds(pid: int) -> float:
    """CPU time (s) of a process and all of its threads: its CPU-time clock, as `clock_getcpuclockid(3)` numbers it."""
    return time.clock_gettime((~pid << 3) | 2)


def growth(bench: Bench, samples: int) -> str:
    """Resident memory of a worker, shared memory included, over a number of samples."""
    loader = make_loader(bench.dataset(default_train_transform(bench.side)), num_workers=1)
    lines, made, marks = ["| samples | resident, MB |", "|---|---|"], 0, [round(samples * n / 10) for n in range(1, 11)]
    while made < samples:
        for image, _ in loader:
            touch(image)
            made += 1
            if made in marks:
                status = Path(f"/proc/{loader._iterator._workers[0].pid}/status").read_text().splitlines()
                resident = next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))
                lines.append(f"| {made} | {resident * 1024 / 1e6:.0f} |")
                print(lines[-1], file=sys.stderr)
    return "\n".join(lines)


def table(bench: Bench) -> str:
    """Markdown table of times and ratios, and whether targets are met."""
    seconds = {
        name: statistics.mean(statistics.median(times) for times in by_symmetry.values())
        for name, by_symmetry in bench.times.items()
    }
    pixels = f"{bench.side} x {bench.side} px"
    lines = [f"\n| {pixels} | CPU s | fastest - slowest symmetry | of the limit | target |", "|---|---|---|---|---|"]
    for name, cpu_s in seconds.items():
        medians = sorted(statistics.median(times) for times in bench.times[name].values())
        span = f"{medians[0]:.3f} - {medians[-1]:.3f}" if len(medians) > 1 else ""
        limit = seconds["limit of the packed" if name == "tissue packed" else "limit"]
        ratio = cpu_s / limit
        verdict = "" if name not in TARGETS else compared(ratio, TARGETS[name], ratio <= TARGETS[name], "at most")
        lines.append(f"| {name} | {cpu_s:.4f} | {span} | {ratio:.2f} | {verdict} |")
    speedup = seconds["the tutorial's class through one worker"] / seconds["the same through one worker"]
    opening = seconds["opening"] * 1000
    verdicts = (
        compared(speedup, TARGET_SPEEDUP, speedup >= TARGET_SPEEDUP, "at least"),
        compared(opening, TARGET_OPENING_MS, opening <= TARGET_OPENING_MS, "at most"),
    )
    most = seconds["the tutorial's class through one worker"] / seconds["limit"]
    lines.append(f"\nThrough one worker {speedup:.1f} times as fast as the tutorial's class; {verdicts[0]}.")
    lines.append(f"Decoding alone, in this process, would be {most:.1f} times as fast.")
    lines.append(f"Opening a slide again: {opening:.1f} ms; {verdicts[1]}.")
    return "\n".join(lines)


def compared(value: float, target: float, is_met: bool, word: str) -> str:
    return f"{word} {target:g}: {'met' if is_met else '**not met**'}"


if __name__ == "__main__":
    main()
