"""Sensitivity and specificity of the artifact masks on painted slides; the table of docs/quality.md.

    python tests/benchmarks/artifacts.py FOLDER          # painted slides are kept there, and used again
    python tests/benchmarks/artifacts.py FOLDER --tuned  # the slides that the thresholds were chosen on

Each pixel of the grid (8 um) counts. Pen and bubbles count over the whole slide; folds and blur over the tissue that
`find_tissue` finds and no pen covers. Six more slides have no artifacts. Choose thresholds on the slides of `--tuned`
only: the others are held out. The table has the first 10 of these, and one without artifacts.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wsidata import Slide, TissueMask
from wsidata.slides.artifacts.find import find_artifacts, on_grid
from wsidata.synthetic import paint_slide

SIDE, ALL = 3000, ("pen", "fold", "blur", "bubble")
INKS = ("blue", "green", "red", "black")
HELD_OUT = 1000
"""Added to the seeds of the slides that thresholds were chosen on."""


def settings(number: int, added: int, *, clean: bool) -> dict[str, object]:
    """Arguments of `paint_slide`, with a number added to the seed."""
    shared = {
        "stain": "he" if number % 3 else "dab", "tumor": bool(number % 2) or number % 3 == 0, "mpp": 1.0,
        "pieces": (None, 4)[number % 2] if clean else (None, 4, 1, 7)[number % 4],
    }  # fmt: skip
    if clean:
        return {**shared, "seed": added + 200 + number}
    return {**shared, "seed": added + 100 + number, "artifacts": ALL, "ink": INKS[number % 4]}


def painted(folder: Path, name: str, options: dict[str, object]) -> tuple[Path, dict[str, NDArray[np.bool_]]]:
    """A slide and its true masks, painted unless it is there."""
    path, masks = folder / f"{name}.tif", folder / f"{name}.npz"
    if not masks.exists():
        slide = paint_slide(SIDE, SIDE, **options)  # type: ignore[arg-type]
        slide.write(path)
        np.savez_compressed(masks, **{one: np.packbits(mask) for one, mask in slide.masks.items()})  # type: ignore[arg-type]
    truth = {
        one: np.unpackbits(bits, count=SIDE * SIDE).reshape(SIDE, SIDE) > 0 for one, bits in np.load(masks).items()
    }
    return path, truth


def main(folder: Path, added: int) -> None:
    """Print the table."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [(f"s{added + n}", settings(n, added, clean=False)) for n in range(16)] + [
        (f"c{added + n}", settings(n, added, clean=True)) for n in range(6)
    ]
    counts: dict[tuple[str, str], NDArray[np.int64]] = defaultdict(lambda: np.zeros(4, np.int64))
    for name, options in names:
        path, truth = painted(folder, name, options)
        with Slide(path) as slide:
            tissue = slide.tissue_mask()
            found = find_artifacts(slide, tissue)
        step = tissue.downsample_x, tissue.downsample_y
        real = {one: on_grid(TissueMask(m, 1, 1, SIDE, SIDE), tissue.pixels.shape, step) for one, m in truth.items()}
        nothing = np.zeros_like(tissue.pixels)
        judged = real["tissue"] & tissue.pixels & ~real.get("pen", nothing)
        for kind in ALL:
            inside = judged if kind in ("fold", "blur") else ~nothing
            mask, there = found[kind].pixels[inside], real.get(kind, nothing)[inside]
            here = [(mask & there).sum(), (~mask & there).sum(), (mask & ~there).sum(), (~mask & ~there).sum()]
            group = "clean" if name[0] == "c" else str(options["stain"])
            for where in {group, "clean" if group == "clean" else "all"}:
                counts[kind, where] += np.array(here)
    print(f"{'':8}{'slides':8}{'sensitivity':>12}{'specificity':>12}{'precision':>12}")
    for (kind, where), (hit, missed, false, true) in counts.items():
        rates = [hit / max(1, hit + missed), true / max(1, true + false), hit / max(1, hit + false)]
        print(f"{kind:8}{where:8}" + "".join(f"{rate:12.3f}" for rate in rates))


if __name__ == "__main__":
    main(Path(sys.argv[1]), 0 if "--tuned" in sys.argv else HELD_OUT)
