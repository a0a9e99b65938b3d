"""Time and memory of publishing large images with wsidata and with `datasets`, to a local Hub.

    python tests/benchmarks/publish.py --quick       # 4 images of 1024 px, to see that it works
    python tests/benchmarks/publish.py               # the figures of docs/benchmarks.md

Slides are painted once. Each run reads every slide at its finest level, encodes it as JPEG (quality 90), and publishes
it, in a process, a cache and a Hub of its own:

    export        wsidata.export to a folder
    publish       wsidata.publish: export, and upload
    bytes         Dataset.from_generator of the very same JPEG bytes, then push_to_hub: the best practice
    arrays        the same of the decoded pixels, as the guides of `datasets` show it; they are stored as PNG
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "wsidata" / "hub"))  # where `local_hub` is

from local_hub import LocalHub

VARIANTS = ("export", "publish", "bytes", "arrays")
QUALITY = 90
PARTS = ("train", "validation", "test")
MIB = 1024


def main() -> None:
    """Measure, and print a table."""
    options = arguments()
    slides = paint_slides(options.folder, options.images, options.side)
    if options.one:
        print(json.dumps(measure(options.one, slides, Path(options.out), options.threads)))
        return
    records: list[dict[str, Any]] = []
    for _ in range(options.repeats):
        for variant in options.variants:
            records.append(in_a_process(variant, options))
            print(records[-1], file=sys.stderr)
    print(table(records, options))


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="4 images of 1024 px")
    parser.add_argument("--images", type=int, default=20)
    parser.add_argument("--side", type=int, default=4096, help="of the square images, in pixels")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1, help="that wsidata reads and encodes in")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--folder", type=Path, default=Path("build/benchmarks"), help="where the slides are written")
    parser.add_argument("--one", choices=VARIANTS, help=argparse.SUPPRESS)
    parser.add_argument("--out", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.quick:
        options.images, options.side = 4, 1024
    return options


def paint_slides(folder: Path, images: int, side: int) -> Path:
    """Write different pyramids of synthetic tissue with camera noise, and their table."""
    folder = folder / f"publish-{images}x{side}"
    if (folder / "reference.csv").exists():
        return folder
    import numpy as np
    import pyvips

    from wsidata.synthetic.tissue import paint_tissue

    folder.mkdir(parents=True, exist_ok=True)
    painted = paint_tissue(side, side, tumor=True, mpp=0.5, rng=np.random.default_rng(0)).astype(np.float32)
    for number in range(images):
        noise = np.random.default_rng(number).normal(0, 12, painted.shape).astype(np.float32)
        pixels = np.clip(np.rot90(painted, number) + noise, 0, 255).astype(np.uint8)
        pyvips.Image.new_from_array(np.ascontiguousarray(pixels)).tiffsave(
            str(folder / f"{name_of(number, images)}.tif"), tile=True, pyramid=True, compression="jpeg", Q=95
        )
    rows = [f"{name_of(number, images)},{'ab'[number % 2]}" for number in range(images)]
    (folder / "reference.csv").write_text("image,class\n" + "\n".join(rows) + "\n")
    return folder


def name_of(number: int, images: int) -> str:
    """Name of a slide: three fifths are for training, one for validation, one for testing."""
    part = PARTS[0] if number < images * 3 // 5 else PARTS[1] if number < images * 4 // 5 else PARTS[2]
    return f"{part}_{number:03d}"


def measure(variant: str, slides: Path, out: Path, threads: int) -> dict[str, Any]:
    """Time and peak memory of one variant, in this process."""
    work = prepare(variant, slides, out, threads)
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark begins here
    before = memory_kib("VmRSS")
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return {
        "variant": variant,
        "wall_s": time.perf_counter() - wall,
        "cpu_s": time.process_time() - cpu,
        "growth_mib": (memory_kib("VmHWM") - before) / MIB,
        "peak_mib": memory_kib("VmHWM") / MIB,
    }


def prepare(variant: str, slides: Path, out: Path, threads: int) -> Any:
    """The function to be measured, with everything imported."""
    if variant in ("export", "publish"):
        return _ours(variant, slides, out, threads)
    import numpy as np
    from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Value

    from wsidata import Slide

    def rows(part: str) -> Iterator[dict[str, Any]]:
        for path in sorted(slides.glob(f"{part}_*.tif")):
            with Slide(path) as slide:
                image = slide.image(level=0)
                encoded = {"bytes": image.jpegsave_buffer(Q=QUALITY, keep="none"), "path": f"{path.stem}.jpg"}
                content = encoded if variant == "bytes" else np.asarray(image.numpy())
            yield {"image": content, "label": int(path.stem[-3:]) % 2, "image_id": path.stem}

    def push() -> None:
        features = Features({"image": Image(), "label": ClassLabel(names=["a", "b"]), "image_id": Value("string")})
        splits = {
            part: Dataset.from_generator(rows, features=features, gen_kwargs={"part": part}, writer_batch_size=1)
            for part in PARTS
        }
        DatasetDict(splits).push_to_hub("tester/slides", private=True, num_shards=dict.fromkeys(PARTS, 1))

    return push


def _ours(variant: str, slides: Path, out: Path, threads: int) -> Any:
    from concurrent.futures import ThreadPoolExecutor

    import huggingface_hub.hf_api

    from wsidata import WSIDataModule, export, publish

    assert huggingface_hub.hf_api.HfApi  # imported before the clock starts, as `datasets` is
    dm = WSIDataModule(
        slides / "reference.csv", slides, test_prefix="test_", val_prefix="validation_", level=0, num_workers=0,
        leaks="off",
    )  # fmt: skip
    how: dict[str, Any] = {"layout": "files", "image_format": "jpeg", "quality": QUALITY, "stats": False, "quiet": True}

    def work() -> None:
        with ThreadPoolExecutor(threads) as pool:
            if variant == "export":
                export(dm, out / "export", say=lambda _: None, executor=pool, **how)
            else:
                publish(dm, "tester/slides", folder=out / "export", say=lambda _: None, executor=pool, **how)

    return work


def memory_kib(name: str) -> int:
    """A value of /proc/self/status in KiB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1])
    raise ValueError(f"/proc/self/status has no {name}: the benchmark needs Linux.")


def in_a_process(variant: str, options: argparse.Namespace) -> dict[str, Any]:
    """Run a variant against a Hub of its own."""
    with tempfile.TemporaryDirectory(dir=options.folder) as folder, LocalHub(Path(folder) / "hub") as hub:
        own = ["--one", variant, "--out", folder, "--threads", str(options.threads), "--folder", str(options.folder)]
        size = ["--images", str(options.images), "--side", str(options.side)]
        done = subprocess.run(
            [sys.executable, __file__, *own, *size],
            env=hub.environment(),
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        record: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        if variant != "export":
            files = hub.repository("tester/slides")["files"]["main"]
            record["uploaded_mb"] = sum(file["size"] for file in files.values()) / 1e6
    return record | {"load": os.getloadavg()[0]}


def table(records: list[dict[str, Any]], options: argparse.Namespace) -> str:
    """Markdown table of medians, with minimum and maximum."""
    lines = [
        f"{options.images} images of {options.side} x {options.side} px, {options.repeats} runs each, wsidata in "
        f"{options.threads} thread(s), load average {statistics.median(one['load'] for one in records):.1f}",
        "",
        "| | wall s | CPU s | peak memory, MiB above the start | of the process, MiB | uploaded, MB |",
        "|---|---|---|---|---|---|",
    ]
    for variant in options.variants:
        ours = [one for one in records if one["variant"] == variant]
        cells = [spread([one[name] for one in ours]) for name in ("wall_s", "cpu_s", "growth_mib", "peak_mib")]
        uploaded = f"{ours[0]['uploaded_mb']:.0f}" if "uploaded_mb" in ours[0] else ""
        lines.append(f"| {variant} | {' | '.join(cells)} | {uploaded} |")
    return "\n".join(lines)


def spread(values: list[float]) -> str:
    """Median, minimum and maximum."""
    digits = 1 if max(values) < 100 else 0
    low, middle, high = (f"{value:.{digits}f}" for value in (min(values), statistics.median(values), max(values)))
    return middle if len(values) == 1 else f"{middle} [{low}-{high}]"


if __name__ == "__main__":
    main()
