"""Speed of reading slides, compared with OpenSlide, tiffslide, cuCIM, fastslide, tifffile and libvips.

    python tests/benchmarks/reading.py --quick       # a small slide, to see that it works
    python tests/benchmarks/reading.py               # the figures of docs/benchmarks.md

Each reader runs in a process of its own on one thread; the readers take turns, `--repeats` times. Times are CPU seconds
from opening the file to the last uint8 tensor, imports not counted, the file in the page cache. Ratios are to "limit":
libjpeg-turbo over the bytes of the same tiles, nothing kept. They include the system's share, which provides the memory
(on a virtual machine, up to seconds for 800 MB, and never twice the same); a second table is without it.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from reading_readers import READERS, run

ONE_THREAD = {"OMP_NUM_THREADS": "1", "VIPS_CONCURRENCY": "1", "TIFFFILE_NUM_THREADS": "1"}
MB = 1e6


def main() -> None:
    """Measure, and print a table for each task."""
    options = arguments()
    width = 4096 if options.quick else 32_768
    slide = options.slide or make_slide(options.folder, width)
    tasks = options.tasks or [f"level-{width // 8}", f"level-{width // 2}", f"patches-{width // 2}", f"strips-{width}"]
    if options.one:
        for task in tasks:
            print(json.dumps(measure(slide, options.one, task)), flush=True)
        return
    records = []
    for _ in range(options.repeats):
        for reader in options.readers:
            records += in_a_process(slide, reader, tasks)
            print(*records[-len(tasks) :], sep="\n", file=sys.stderr)
    for task in tasks:
        print(table(task, [record for record in records if record["task"] == task]))
    print(summary("CPU s (of the limit)", tasks, records, _cpu))
    print(summary("without system, CPU s (of the limit)", tasks, records, _own))


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a slide of 4096 px instead of 32,768")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--readers", nargs="+", choices=READERS, default=list(READERS))
    parser.add_argument("--tasks", nargs="+", help="such as level-16384 patches-16384 strips-32768")
    parser.add_argument("--folder", type=Path, default=Path("build/benchmarks"), help="where the slide is written")
    parser.add_argument("--slide", type=Path, help="a slide of your own, tiled JPEG; goes with --tasks")
    parser.add_argument("--one", metavar="READER", help=argparse.SUPPRESS)
    return parser.parse_args()


def make_slide(folder: Path, width: int) -> Path:
    """Write a pyramid of JPEG tiles, quality 80, 256 px: synthetic tissue, mirrored until it fills the slide."""
    path = folder / f"reading-{width}.tif"
    if path.exists():
        return path
    import pyvips

    from wsidata.synthetic.tissue import paint_tissue

    folder.mkdir(parents=True, exist_ok=True)
    side = min(width, 4096)
    painted = pyvips.Image.new_from_array(paint_tissue(side, side, tumor=True, mpp=0.5, rng=np.random.default_rng(0)))
    across = width // side
    turned = [painted, painted.fliphor(), painted.flipver(), painted.rot180()]
    tiles = [turned[(row * 3 + column) % 4] for row in range(across) for column in range(across)]
    image = pyvips.Image.arrayjoin(tiles, across=across)
    image.tiffsave(str(path), tile=True, tile_width=256, tile_height=256, pyramid=True, compression="jpeg", Q=80,
                   bigtiff=True)  # fmt: skip
    return path


def in_a_process(slide: Path, reader: str, tasks: list[str]) -> list[dict[str, Any]]:
    """Run one reader's tasks; a failure becomes a record of its error."""
    command = [sys.executable, __file__, "--slide", str(slide), "--one", reader, "--tasks", *tasks]
    done = subprocess.run(command, env={**os.environ, **ONE_THREAD}, capture_output=True, text=True, timeout=1800)
    records: list[dict[str, Any]] = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode:
        error = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        records += [{"reader": reader, "task": task, "error": error} for task in tasks[len(records) :]]
    return records


def measure(slide: Path, name: str, task: str) -> dict[str, Any]:
    """Time one reader on one task, in this process."""
    beside_torch = getattr(READERS[name], "beside_torch", True)
    if beside_torch:
        import torch

        torch.set_num_threads(1)
    slide.read_bytes()  # into the page cache
    warm_up = READERS[name](slide)  # imports
    warm_up.region(len(warm_up.sizes) - 1, 0, 0, 16, 16)
    del warm_up
    total = 0
    Path("/proc/self/clear_refs").write_text("5")  # the peak of memory starts anew
    resident = memory("VmRSS")
    load, before, wall = os.getloadavg()[0], resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    for pixels in run(READERS[name](slide), task):
        own = pixels if pixels.flags.writeable else pixels.copy()
        if beside_torch:
            total += int(torch.from_numpy(own).permute(2, 0, 1)[0, ::64, ::64].sum())
        else:
            total += int(own[::64, ::64, 0].sum())
    after = resource.getrusage(resource.RUSAGE_SELF)
    system = after.ru_stime - before.ru_stime
    return {
        "reader": name,
        "task": task,
        "cpu_s": after.ru_utime - before.ru_utime + system,
        "system_s": system,
        "wall_s": time.perf_counter() - wall,
        "peak_mb": (memory("VmHWM") - resident) / MB,
        "sum": total,
        "load": load,
    }


def memory(field: str) -> float:
    """A value of /proc/self/status in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def table(task: str, records: list[dict[str, Any]]) -> str:
    """Markdown table of the medians of one task."""
    rows = [
        f"\n| {task} | CPU s | fastest - slowest | of the limit | without system | of the limit | peak MB | pixels |",
        "|---|---|---|---|---|---|---|---|",
    ]
    sound = [record for record in records if "error" not in record]
    by_reader = {name: [record for record in sound if record["reader"] == name] for name in READERS}
    limits = [statistics.median(map(seconds, by_reader["limit"] or [{}])) for seconds in (_cpu, _own)]
    reference = next((record["sum"] for record in by_reader["tifffile"]), None)
    for name, ours in by_reader.items():
        if ours:
            cpu, own = (statistics.median(map(seconds, ours)) for seconds in (_cpu, _own))
            span = f"{min(map(_cpu, ours)):.2f} - {max(map(_cpu, ours)):.2f}"
            peak = max(record["peak_mb"] for record in ours)
            is_limit = name.startswith("limit") or reference is None
            same = "" if is_limit else "as tifffile" if ours[0]["sum"] == reference else "differ"
            ratios = cpu / limits[0], own / limits[1]
            rows.append(
                f"| {name} | {cpu:.3g} | {span} | {ratios[0]:.2f} | {own:.3g} | {ratios[1]:.2f} | {peak:.0f} | {same} |"
            )
    rows += sorted({f"{r['reader']}: {r['error']}" for r in records if "error" in r})
    loads = [record["load"] for record in sound]
    return "\n".join([*rows, f"load average {min(loads):.1f} - {max(loads):.1f}, {os.cpu_count()} processors"])


def summary(heading: str, tasks: list[str], records: list[dict[str, Any]], seconds: Callable[[Any], float]) -> str:
    """Markdown table of the medians of all tasks, with their ratios to the limit."""
    times: dict[tuple[str, str], list[float]] = {}
    for record in records:
        if "error" not in record:
            times.setdefault((record["reader"], record["task"]), []).append(seconds(record))
    rows = [f"\n| {heading} | {' | '.join(tasks)} |", "|---" * (len(tasks) + 1) + "|"]
    for name in dict.fromkeys(reader for reader, _ in times):
        cells = []
        for task in tasks:
            median, limit = (statistics.median(times.get((one, task), [float("nan")])) for one in (name, "limit"))
            cells.append(f"{median:.3g} ({median / limit:.2f})")
        rows.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(rows)


def _cpu(record: dict[str, Any]) -> float:
    return float(record.get("cpu_s", "nan"))


def _own(record: dict[str, Any]) -> float:
    """CPU seconds without system time."""
    return _cpu(record) - float(record.get("system_s", "nan"))


if __name__ == "__main__":
    main()
