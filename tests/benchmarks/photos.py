"""Speed of loading photos, and of their channel statistics, compared with torchvision, Pillow and libvips.

    python tests/benchmarks/photos.py --quick                     # one repeat, to see that it works
    taskset -c 0 python tests/benchmarks/photos.py                # the figures of docs/benchmarks.md
    python tests/benchmarks/photos.py --workers 1 2               # through a DataLoader's workers

Photos are generated once: of 12 and 0.5 megapixels, soft and slightly noisy as from a camera, in four qualities and
chroma subsamplings. All readers run in one process on one thread, one after another, `--repeats` times over; times are
CPU milliseconds a photo (the machine may be busy): medians; in brackets how many times ours that is, and fastest
and slowest turn. Files are in the page cache. With workers, CPU times are those of the workers and the main process
together, from the second epoch on, and photos per second are by the clock.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

os.environ |= {"OMP_NUM_THREADS": "1", "VIPS_CONCURRENCY": "1"}

import cv2
import numpy as np
import simplejpeg
from photos_readers import LIMITS, READERS, STATISTICS

SIZES = {"12 megapixels": (3000, 4000), "0.5 megapixels": (612, 816)}
KINDS = {
    "quality 85, 4:2:0": (85, "420", False),
    "92, 4:2:2": (92, "422", False),
    "95, 4:4:4": (95, "444", False),
    "90, 4:2:0, progressive": (90, "420", True),
}
"""Quality, chroma subsampling, and whether progressive."""
MUSHROOMS = Path(__file__).resolve().parents[3] / "shared" / "data" / "photos" / "mushrooms"
Key = tuple[str, str]
Times = dict[Key, list[float]]
"""CPU seconds of each turn, by reader and column of the table."""
OUR_STATISTICS = "channel_stats(paths)"


def main() -> None:
    """Measure, and print a table for each size."""
    options = arguments()
    import torch

    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    repeats = 1 if options.quick else options.repeats
    for size, shape in SIZES.items():
        photos = paint(options.folder / size.replace(" ", "-"), *shape)
        if options.workers:
            for count in options.workers:
                print(workers_table(size, photos, count, repeats), flush=True)
            continue
        print(table(f"{size}, to (3, 224, 224)", photos, repeats), flush=True)
        columns = {kind: photos[number :: len(KINDS)] for number, kind in enumerate(KINDS)}
        print(stats_table(f"{size}, statistics", columns, repeats), flush=True)
    if MUSHROOMS.is_dir() and not options.workers:
        photos = sorted(MUSHROOMS.glob("*.[jJ][pP][gG]"))
        print(stats_table("mushrooms, statistics", {f"{len(photos)} photos": photos}, repeats), flush=True)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one repeat")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--workers", type=int, nargs="+", default=[], help="numbers of workers, such as 1 2")
    parser.add_argument("--folder", type=Path, default=Path("build/benchmarks/photos"), help="where photos are written")
    return parser.parse_args()


def paint(folder: Path, height: int, width: int) -> list[Path]:
    """Write eight photos into one class folder: clouds of color of all sizes, edges, and camera noise."""
    paths = [folder / "class" / f"{number}.jpg" for number in range(2 * len(KINDS))]
    for number, path in enumerate(paths):
        if path.exists():
            continue
        rng = np.random.default_rng(number)
        photo = np.full((height, width, 3), 120.0, np.float32)
        side = 4
        while side < max(height, width) / 2:
            cloud = rng.standard_normal((side * 3 // 4, side, 3)).astype(np.float32)
            photo += 60 / side**0.6 * cv2.resize(cloud, (width, height), interpolation=cv2.INTER_CUBIC)
            side *= 2
        for _ in range(12):
            corners = rng.integers(0, (width, height), (3, 2), dtype=np.int32)
            cv2.fillPoly(photo, [corners], rng.uniform(0, 255, 3).tolist(), cv2.LINE_AA)
        photo += rng.normal(0, 3, (height, width, 1))
        quality, colors, progressive = list(KINDS.values())[number % len(KINDS)]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(photo.clip(0, 255).astype(np.uint8), quality, colors, progressive))
    return paths


def encode(pixels: np.ndarray[Any, Any], quality: int, colors: str, progressive: bool) -> bytes:
    """Encode a JPEG."""
    if not progressive:
        return bytes(simplejpeg.encode_jpeg(pixels, quality, "RGB", colors))
    done, data = cv2.imencode(".jpg", pixels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality,
                                                          cv2.IMWRITE_JPEG_PROGRESSIVE, 1])  # fmt: skip
    assert done
    return data.tobytes()


def read_kind(data_set: Any, kind: int) -> None:
    """Read all samples of one kind into one batch."""
    import torch

    images = [data_set[number][0] for number in range(kind, len(data_set), len(KINDS))]
    if images[0].shape[0] == 3:  # the limits give pixels of any size
        torch.stack(images)


def alternate(tasks: dict[Key, Callable[[], Any]], repeats: int) -> Times:
    """CPU seconds of each task, run in turn; the first turn is a warm-up and is not counted."""
    times: Times = defaultdict(list)
    for turn in range(repeats + 1):
        for name, task in tasks.items():
            start = time.process_time()
            task()
            if turn:
                times[name].append(time.process_time() - start)
    return times


def table(title: str, photos: Sequence[Path], repeats: int) -> str:
    """Markdown table of CPU milliseconds per photo, by reader and kind."""
    data_sets = {name: make(photos) for name, make in READERS.items()}
    tasks = {
        (name, kind): partial(read_kind, data_set, number)
        for number, kind in enumerate(KINDS)
        for name, data_set in data_sets.items()
    }
    counts = dict.fromkeys(KINDS, len(photos) // len(KINDS))
    return markdown(title, alternate(tasks, repeats), counts, ours="wsidata")


def stats_table(title: str, columns: dict[str, list[Path]], repeats: int) -> str:
    """Markdown table of CPU milliseconds per photo for each way to compute statistics; all results must agree."""
    for photos in columns.values():
        expected = STATISTICS["the notebook's loop"](photos)
        np.testing.assert_allclose(STATISTICS[OUR_STATISTICS](photos), expected, rtol=0, atol=1e-5)
    tasks = {
        (name, column): partial(task, photos) for column, photos in columns.items() for name, task in STATISTICS.items()
    }
    counts = {column: len(photos) for column, photos in columns.items()}
    return markdown(title, alternate(tasks, repeats), counts, ours=OUR_STATISTICS)


def markdown(title: str, times: Times, counts: dict[str, int], ours: str) -> str:
    """Markdown table of medians: milliseconds per photo (ratio to ours; fastest - slowest)."""
    rows = [f"\n| {title} | {' | '.join(counts)} |", "|---" * (1 + len(counts)) + "|"]
    for name in dict.fromkeys(name for name, _ in times):
        cells = []
        for column, count in counts.items():
            low, median, high = (1000 / count * one(times[name, column]) for one in (min, statistics.median, max))
            ratio = median / (1000 / count * statistics.median(times[ours, column]))
            cells.append(f"{median:.1f} ({ratio:.2f}; {low:.1f} - {high:.1f})")
        rows.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join([*rows, conditions()])


def conditions() -> str:
    """Load of the machine."""
    return f"load average {os.getloadavg()[0]:.1f}, {os.cpu_count()} processors"


def workers_table(title: str, photos: Sequence[Path], workers: int, epochs: int) -> str:
    """Markdown table of loaders with workers: CPU time of all processes, and photos per second of wall time."""
    rows = [f"\n| {title}, {workers} workers | CPU ms a photo | photos/s |", "|---|---|---|"]
    copies = [path for _ in range(max(1, 32 // len(photos))) for path in photos]
    for name in list(READERS)[: -len(LIMITS)]:
        loader = make_loader(name, copies, workers)
        cpu_s, wall_s, count = [], [], 0
        for _ in range(epochs + 1):
            cpu, wall = all_cpu_s(), time.perf_counter()
            count = sum(len(images) for images, _ in loader)
            cpu_s.append(all_cpu_s() - cpu)
            wall_s.append(time.perf_counter() - wall)
        rows.append(f"| {name} | {1000 * statistics.median(cpu_s[1:]) / count:.1f} | "
                    f"{count / statistics.median(wall_s[1:]):.1f} |")  # fmt: skip
        del loader
    return "\n".join([*rows, conditions()])


def make_loader(name: str, photos: Sequence[Path], workers: int) -> Any:
    """DataLoader of a reader's dataset: ours in ours, others in torch's own."""
    from torch.utils.data import ConcatDataset, DataLoader

    from wsidata.datasets.loader import make_loader as our_loader

    if name == "wsidata":
        return our_loader(READERS[name](photos), batch_size=8, num_workers=workers)
    data_set = READERS[name](photos)
    if len(data_set) < len(photos):  # ImageFolder lists its folder
        data_set = ConcatDataset([data_set] * (len(photos) // len(data_set)))
    start = "forkserver" if sys.platform != "win32" else "spawn"
    return DataLoader(data_set, batch_size=8, num_workers=workers, persistent_workers=True,
                      multiprocessing_context=start)  # fmt: skip


def all_cpu_s() -> float:
    """CPU seconds of this process and its workers so far."""
    ticks = 0
    for worker in multiprocessing.active_children():
        fields = Path(f"/proc/{worker.pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])  # user and system time
    return time.process_time() + ticks / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main()
