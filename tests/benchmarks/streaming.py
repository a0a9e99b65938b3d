"""Time and peak memory of a ResNet training step, plain, checkpointed, in strips and in tiles.

The figures in docs/benchmarks.md come from here, those of lightstream 1.0.7 too. Each measurement runs in a fresh
process, so that its peak memory is its own, and the variants take turns, so that a slow phase of the machine affects
all of them. See README.md in this folder.

    python tests/benchmarks/streaming.py --quick
    python tests/benchmarks/streaming.py --models resnet18 resnet50 --sizes 4096 --variants plain strips-128 memory-2GB
"""

from __future__ import annotations

import argparse
import datetime
import importlib.util
import itertools
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from streaming_report import Record, markdown, read_records, wrong_gradients
from streaming_variants import MODELS, Job, Variant

WORKER = Path(__file__).with_name("streaming_worker.py")
DEFAULT_OUT = Path("build/benchmarks/streaming.jsonl")
SHARE_OF_FREE_MEMORY = 0.95
VARIANTS = (
    "plain", "checkpoint", "strips-256", "strips-128", "strips-64", "strips-32", "strips-128-half", "strips-128-all",
    "tiles-1600", "lightstream-1600",
)  # fmt: skip
QUICK_VARIANTS = ("plain", "checkpoint", "strips-256", "strips-64", "strips-64-all", "tiles-704", "lightstream-1024")

EXACT_MALLOC = "glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=1048576"
"""Blocks of 1 MiB and more leave the process as soon as they are freed, so that resident memory is what is in use, and
come in huge pages, so that their page faults cost next to nothing."""


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark, or print the table of an earlier one.

    Returns:
        0, or 1 if a run failed or its gradients were wrong.
    """
    options = parse_options(arguments)
    if options.table:
        print(markdown(read_records(options.table)))
        return 0
    options.out.parent.mkdir(parents=True, exist_ok=True)
    records = [describe_environment(options)]
    with options.out.open("w") as out, tempfile.TemporaryDirectory() as scratch:
        print(json.dumps(records[0]), file=out, flush=True)
        for model, side_px in itertools.product(options.models, options.sizes):
            for record in measure_in_turn(options, model, side_px, Path(scratch)):
                print(json.dumps(record), file=out, flush=True)
                records.append(record)
    print(markdown(records))
    print(f"\nRecords: {options.out}")
    wrong = wrong_gradients(records)
    print("\n".join(["", "WRONG GRADIENTS, these times mean nothing:", *wrong]) if wrong else "")
    return int(bool(wrong) or any(record["kind"] == "failed" for record in records))


def parse_options(arguments: list[str] | None) -> argparse.Namespace:
    """The command line, with what --quick stands for filled in."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", help="sides of the square images, px (4096 8192)")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=["resnet18"], help="(resnet18)")
    parser.add_argument("--variants", type=Variant.parse, nargs="+", help="what to run: see README.md in this folder")
    parser.add_argument("--repeats", type=int, help="runs of each variant and size, for the median (3)")
    parser.add_argument("--threads", type=int, default=1, help="threads for torch (1)")
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float32", help="(float32)")
    parser.add_argument("--malloc", choices=("exact", "default"), default="exact", help="see README.md (exact)")
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT, help=f"JSON lines ({DEFAULT_OUT})")
    parser.add_argument("--quick", action="store_true", help="a minute: 512 and 1024 px, once")
    parser.add_argument("--table", type=Path, metavar="JSONL", help="only print the table of an earlier run")
    options = parser.parse_args(arguments)
    options.sizes = options.sizes or ([512, 1024] if options.quick else [4096, 8192])
    options.repeats = options.repeats or (1 if options.quick else 3)
    names = QUICK_VARIANTS if options.quick else VARIANTS
    options.variants = options.variants or [Variant.parse(name) for name in names]
    return options


def measure_in_turn(options: argparse.Namespace, model: str, side_px: int, scratch: Path) -> Iterator[Record]:
    """Measure all variants at one size, in turn, `options.repeats` times; one that cannot run is reported once.

    The first one that runs is the reference for the gradients of the others.
    """
    left_out: set[str] = set()
    reference: str | None = None
    for repeat in range(options.repeats):
        for variant in options.variants:
            if variant.name in left_out:
                continue
            record: Record = {"kind": "skipped", "model": model, "side_px": side_px}
            record |= {"variant": variant.name, "repeat": repeat}
            reason = why_skip(variant, model, side_px, options.dtype)
            if reason is None:
                record |= run_in_fresh_process(options, variant, model, side_px, reference, scratch)
                if record["kind"] == "run" and reference is None:
                    reference = variant.name
            else:
                record["reason"] = reason
            if record["kind"] != "run":
                left_out.add(variant.name)
            print(progress_line(record), file=sys.stderr, flush=True)
            yield record


def why_skip(variant: Variant, model: str, side_px: int, dtype: str) -> str | None:
    """Why a variant cannot run at this size on this machine, or None."""
    if variant.kind == "lightstream" and importlib.util.find_spec("lightstream") is None:
        return "lightstream is not installed: pip install 'slidestream[bench]'"
    reason = variant.why_not(side_px, model)
    if reason:
        return reason
    needed = variant.estimated_bytes(side_px, model, bytes_per_value=4 if dtype == "float32" else 8)
    available = available_bytes()
    if needed > SHARE_OF_FREE_MEMORY * available:
        return f"does not fit: needs about {needed / 1e9:.1f} GB, {available / 1e9:.1f} GB are free"
    return None


def run_in_fresh_process(
    options: argparse.Namespace, variant: Variant, model: str, side_px: int, reference: str | None, scratch: Path
) -> dict[str, Any]:
    """Measure one variant once; the record is of kind "run", or "failed" with the end of the worker's output."""
    gradients = scratch / f"gradients-{model}-{side_px}.pt"
    result = scratch / "result.json"
    result.unlink(missing_ok=True)
    job = Job(
        variant=variant,
        model=model,
        side_px=side_px,
        threads=options.threads,
        dtype=options.dtype,
        reference_path=str(gradients) if reference else None,
        gradients_path=None if reference else str(gradients),
        result_path=str(result),
    )
    done = subprocess.run(
        [sys.executable, str(WORKER), json.dumps(job.to_dict())],
        env=worker_environment(options),
        cwd=scratch,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        how = f"killed by signal {-done.returncode}" if done.returncode < 0 else f"exit status {done.returncode}"
        last_line = (done.stdout.strip().splitlines() or ["no output"])[-1]
        print(done.stdout, file=sys.stderr)
        return {"kind": "failed", "reason": f"{how}: {last_line}"}
    settings = {"threads": options.threads, "dtype": options.dtype, "reference": reference or variant.name}
    return {"kind": "run", **settings, **json.loads(result.read_text())}


def worker_environment(options: argparse.Namespace) -> dict[str, str]:
    """Environment variables of a worker: threads, no GPU, one malloc arena, glibc's malloc as requested."""
    threads = str(options.threads)
    fixed = {
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        "CUDA_VISIBLE_DEVICES": "",
        "MALLOC_ARENA_MAX": "1",
    }
    if options.malloc == "exact":
        fixed["GLIBC_TUNABLES"] = EXACT_MALLOC
    return {**os.environ, **fixed}


def describe_environment(options: argparse.Namespace) -> Record:
    """The machine and the settings, as far as they are available without torch."""
    cpu_lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.split(":", 1)[1].strip() for line in cpu_lines if line.startswith("model name")]
    return {
        "kind": "environment",
        "date": datetime.date.today().isoformat(),
        "cpu": models[0] if models else platform.machine(),
        "cores": os.cpu_count(),
        "memory_gb": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9,
        "available_gb": available_bytes() / 1e9,
        "load_average": os.getloadavg(),
        "libc": " ".join(platform.libc_ver()),
        "malloc": EXACT_MALLOC if options.malloc == "exact" else "glibc's defaults",
        "python": platform.python_version(),
        "command": sys.argv[1:],
    }


def available_bytes() -> int:
    """Memory available to a new process without swapping, in bytes."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("/proc/meminfo has no MemAvailable: this benchmark needs Linux to measure memory.")


def progress_line(record: Record) -> str:
    """One line of progress for the terminal."""
    start = f"{record['model']}  {record['side_px']} px  {record['variant']:<17} run {record['repeat'] + 1}: "
    if record["kind"] != "run":
        return f"{start}{record['kind']}, {record['reason']}"
    peak_gb = record["peak_above_baseline_bytes"] / 1e9
    return f"{start}{record['step_s']:7.1f} s  {peak_gb:6.2f} GB  (load before {record['load_before']:.1f})"


if __name__ == "__main__":
    sys.exit(main())
