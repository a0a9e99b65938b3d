"""The same training with lightstream 1.0.7 and with slidestream, on a CPU: seconds, memory, exactness, lines of code.

    python -m study.peers.lightstream_compare                  a level of 4096 px, three times in turn; an hour
    python -m study.peers.lightstream_compare --quick          2048 px, once
    python -m study.peers.lightstream_compare --show           the tables of docs/study/lightstream.csv

Our memory budget is set so that the peaks of the two processes differ by less than 5 percent; a second budget shows
what half of it costs. Needs `pip install lightstream==1.0.7`; nothing is downloaded, weights are random. Measurements
go to the CSV as they end, in place of earlier ones of the same size.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import torch
import torchvision
from torch import nn

from streammodels import stream
from wsidata.synthetic import write_camelyon16

OUT = Path("docs/study/lightstream.csv")
ROOT = Path(__file__).resolve().parents[2]
SETTINGS = {4096: ("2560", "2900MB", "1400MB"), 2048: ("1536", "1700MB", "600MB")}
"""lightstream's tile, and our budgets, by the side of the image: its tutorial's tile, and one of as few tiles."""
EXACT = (("theirs", 1184, "1088"), ("ours", 1184, "256"), ("theirs", 1201, "1088"), ("ours", 1201, "256"))
"""Sides that are a multiple of 32, and that are not, with lightstream's tile or the rows of our strips."""
LARGE = (("theirs", 8192, "1280"), ("theirs", 8192, "2560"))


def measure(*job: object) -> dict[str, object]:
    """Run one job of `lightstream_worker` in a fresh process, on one thread."""
    limits = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "VIPS_CONCURRENCY": "1", "CUDA_VISIBLE_DEVICES": ""}
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-m", "study.peers.lightstream_worker", *map(str, job)], stdout=subprocess.PIPE,
        env={**os.environ, **limits, "PYTHONPATH": paths}, text=True, check=True,
    )  # fmt: skip
    found: dict[str, object] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def jobs(side: int, repeats: int, folder: Path) -> Iterator[tuple[object, ...]]:
    """All measurements, the two in turn."""
    tile, equal, less = SETTINGS[side]
    for _ in range(repeats):
        yield "step", "theirs", folder, side, tile
        yield "step", "ours", folder, side, equal
        yield "step", "ours", folder, side, less
    for which, length, size in EXACT:
        yield "exact", which, "-", length, size
    for which, length, size in LARGE:
        yield "tile", which, "-", length, size


def random_weights(home: Path) -> None:
    """A file of random weights where torchvision looks for those of ImageNet, so that both start from the same."""
    torch.manual_seed(0)
    (home / "hub" / "checkpoints").mkdir(parents=True)
    state = torchvision.models.resnet18(weights=None).state_dict()
    torch.save(state, home / "hub" / "checkpoints" / "resnet18-f37072fd.pth")


def code_lines(script: str) -> int:
    """Lines of code of a script, without docstrings, comments and blank lines."""
    source = Path(__file__).with_name(script).read_text()
    tree = ast.parse(source)
    texts = {
        line
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }
    return sum(
        bool(line.strip()) and not line.strip().startswith("#") and number not in texts
        for number, line in enumerate(source.splitlines(), 1)
    )


def largest_side(budget: int, image_bytes: int) -> tuple[int, float]:
    """Largest square image that our forecast fits into a budget, and the forward passes that its step costs.

    Args:
        budget: Bytes, above the model.
        image_bytes: Of each pixel: 3 for an image in memory, 0 for rows that are decoded as they are needed.
    """
    network = torchvision.models.resnet18(weights=None).eval()
    trunk = nn.Sequential(*list(network.children())[:-1])
    low, high, passes = 0, 65_536, 0.0
    while high - low > 256:
        side = (low + high) // 512 * 256
        try:
            left = budget - image_bytes * side * side
            found = stream(trunk, memory=max(left, 1)).forecast(side, side)
        except ValueError:
            high = side
        else:
            low, passes = side, found.training_operations / found.forward_operations
    return low, passes


def tables(records: pd.DataFrame) -> str:
    """Tables of the measurements that are there."""
    lines = []
    for (side,), part in records[records["what"] == "step"].groupby(["side_px"]):
        lines += [
            f"\n| {side} x {side} px | setting | runs | CPU s a step | peak of the process, GB | of the step, GB | "
            "before the first step, CPU s |",
            "|---|---|---|---|---|---|---|",
        ]
        for which, size in dict.fromkeys(zip(part["which"].tolist(), part["size"].tolist(), strict=True)):
            runs = part[(part["which"] == which) & (part["size"] == size)]
            step, before = runs["step_cpu_s"], runs["before_s"]
            peak, grown = runs["peak_bytes"] / 1e9, (runs["peak_bytes"] - runs["before_bytes"]) / 1e9
            spread = f"{step.median():.0f}" + (f" ({step.min():.0f} to {step.max():.0f})" if len(runs) > 1 else "")
            lines.append(
                f"| {NAMES[which]} | {_setting(which, size)} | {len(runs)} | {spread} | {peak.median():.2f} | "
                f"{grown.median():.2f} | {before.median():.0f} |"
            )
    lines += ["\n| against plain PyTorch, float64 | side, px | map | convolutions | normalization | image |"]
    lines += ["|---|---|---|---|---|---|"]
    for row in records[records["what"] == "exact"].astype(object).fillna("").to_dict("records"):
        cells = [_error(str(row[kind])) for kind in ("map", "convolutions", "normalization", "image")]
        lines.append(f"| {NAMES[str(row['which'])]} | {row['side_px']} | {' | '.join(cells)} |")
    return "\n".join([*lines, *_large(records[records["what"] == "tile"]), "", _lines_of_code()])


NAMES = {"theirs": "lightstream", "ours": "slidestream"}


def _setting(which: str, size: str) -> str:
    return f"tiles of {size} px" if which == "theirs" else f'`memory="{size}"`'


def _error(text: str) -> str:
    try:
        return f"{float(text):.0e}"
    except ValueError:
        return text


def _large(tiles: pd.DataFrame) -> list[str]:
    if tiles.empty:
        return []
    lines = ["\n| largest square image, px | in 2 GB | in 4 GB | forward passes a step |", "|---|---|---|---|"]
    for size in tiles["size"].unique().tolist():
        runs = tiles[tiles["size"] == size]
        pixels = 3 + 2 * 512 * 4 / 32**2  # the image in uint8, and the map and its gradient in float32
        tile = float((runs["peak_bytes"] - runs["before_bytes"]).median())
        fits = [int(max((budget - tile) / pixels, 0) ** 0.5) // 32 * 32 for budget in (2e9, 4e9)]
        passes = " and ".join(f"{passes_of_tiles(one, int(size)):.0f}" for one in fits if one >= int(size))
        cells = " | ".join(f"{one:,}" if one >= int(size) else "not even one tile" for one in fits)
        lines.append(f"| lightstream, tiles of {size}, image in memory | {cells} | {passes} |")
    for title, image_bytes in (("image in memory", 3), ("rows decoded as needed", 0)):
        found = [largest_side(budget, image_bytes) for budget in (2_000_000_000, 4_000_000_000)]
        lines.append(f"| slidestream, {title} | {found[0][0]:,} | {found[1][0]:,} | {found[1][1]:.1f} |")
    return lines


def passes_of_tiles(side: int, tile: int, lost: int = 416, gradient_lost: int = 992) -> float:
    """Work of lightstream's step on ResNet-18, in forward passes over the image.

    Args:
        side: Side of the image, pixels.
        tile: Side of the tile.
        lost: Pixels by which tiles overlap in the forward pass, as lightstream measures them.
        gradient_lost: In the backward pass.
    """
    forward = -(-side // (tile - lost)) if side > tile else 1
    backward = -(-(side - gradient_lost) // (tile - gradient_lost)) if side > tile else 1
    return float((forward**2 + 3 * backward**2) * tile**2 / side**2)


def _lines_of_code() -> str:
    theirs, ours = code_lines("lightstream_theirs.py"), code_lines("lightstream_ours.py")
    return f"Lines of code: lightstream {theirs}, slidestream {ours}."


def main() -> None:
    """Measure, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, choices=SETTINGS, default=4096, help="side of the images, pixels (4096)")
    parser.add_argument("--repeats", type=int, default=3, help="steps of each (3)")
    parser.add_argument("--quick", action="store_true", help="2048 px, once")
    parser.add_argument("--only", nargs="+", choices=("step", "exact", "tile"), default=["step", "exact", "tile"])
    parser.add_argument("--out", type=Path, default=OUT, help=f"measurements ({OUT})")
    parser.add_argument("--show", action="store_true", help="only print the tables")
    options = parser.parse_args()
    side, repeats = (2048, 1) if options.quick else (options.side, options.repeats)
    with tempfile.TemporaryDirectory() as scratch:
        folder, home = Path(scratch) / "slides", Path(scratch) / "weights"
        if not options.show:
            random_weights(home)
            os.environ["TORCH_HOME"] = str(home)
            if "step" in options.only:  # slides vary in size, by up to a twelfth
                write_camelyon16(folder, normal=3, tumor=3, test=0, size_px=(side * 13 // 12,) * 2, levels=2)
            _leave_out(options.out, options.only, side)
            for job in jobs(side, repeats, folder):
                if job[0] in options.only:
                    _add(options.out, job)
    print(tables(pd.read_csv(options.out, dtype={"size": str})))


COLUMNS = (
    "what", "which", "side_px", "size", "step_cpu_s", "before_s", "before_bytes", "peak_bytes", "process_peak_bytes",
    "map", "convolutions", "normalization", "image", "tiles", "load",
)  # fmt: skip


def _leave_out(out: Path, kinds: list[str], side: int) -> None:
    """Remove earlier measurements of what is measured now."""
    if out.exists():
        table = pd.read_csv(out, dtype={"size": str})
        again = table["what"].isin(kinds) & ((table["what"] != "step") | (table["side_px"] == side))
        table[~again].to_csv(out, index=False)


def _add(out: Path, job: tuple[object, ...]) -> None:
    found = {"what": job[0], "which": job[1], "side_px": job[3], "size": job[4], **measure(*job)}
    print(found, flush=True)
    out.parent.mkdir(parents=True, exist_ok=True)
    table = pd.DataFrame([found], columns=list(COLUMNS))
    table.to_csv(out, mode="a", header=not out.exists(), index=False)


if __name__ == "__main__":
    main()
