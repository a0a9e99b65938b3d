"""Command line of the study: train what is missing, then write its tables and figures.

python -m study                     all parts, several CPU hours
python -m study --quick             a short form of the first part, about two minutes
python -m study cost                one part
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from study import figures
from study.arms import BORDERS, LONG, NEEDLES, SLIDES, WHOLE, Arm
from study.cost import measure
from study.heat import heat_table
from study.plan import LONGER, SEEDS, chosen, has_begun, run, tune, with_seeds
from study.tables import curve_table, score_table, share_table
from study.tasks.needles import Needles
from study.tasks.slides import Slides
from study.training import Job
from wsidata.jobs.pools import process_pool

SIDES_PX = (64, 96, 192)
SHARE_RANGES = 3
LONGER_SLIDES = {"image": 3, "tiles": 3, "features": 10}
"""Times the steps on slides, by what an arm reads; steps on features are cheap."""
QUICK = tuple(
    replace(arm, pool="lse") for arm in NEEDLES if arm.name in {"whole image", "shrunk 2x", "shrunk 4x"}
)  # with the maximum, three of nine first weights do not learn in so few steps
QUICK_RATE = 8e-3
Do = Callable[[Iterable[Job]], list[Job]]


def needles(data: Needles, arms: Sequence[Arm], do: Do, out: Path) -> None:
    """All arms on the canvases, the learning rate chosen on validation, three seeds each; some with more steps, too."""
    do(tune(data, arms))
    jobs = do(with_seeds(chosen(data, arms)))
    write(score_table(jobs, WHOLE.name), out / "needles.csv")
    write(curve_table(jobs), out / "needles_curves.csv")
    long = do(with_seeds(longer(data, [arm for arm in arms if arm in LONG], do)))
    write(score_table(long, WHOLE.name), out / "needles_longer.csv")
    write(curve_table(long), out / "needles_longer_curves.csv")


def longer(data: Needles, arms: Iterable[Arm], do: Do) -> list[Job]:
    """The arms with more steps; the learning rate of one that had not begun to learn is chosen again."""
    long, jobs = replace(data, steps=LONGER * data.steps), list[Job]()
    for arm in arms:
        found = chosen(data, [arm])
        if has_begun(found[0]):
            jobs += chosen(long, [arm], of=data)
        else:
            do(tune(long, [arm]))
            jobs += chosen(long, [arm])
    return jobs


def sides(data: Needles, do: Do, out: Path) -> None:
    """Three arms on canvases of several sides, with as many digits to the area; the largest with more steps, too."""
    arms = [arm for arm in NEEDLES if arm.name in {"whole image", "shrunk 2x", "tiles, max"}]
    do(tune(data, arms))
    jobs, long = list[Job](), list[Job]()
    for side in SIDES_PX:
        of_side = replace(data, side_px=side, digits=max(2, round(data.digits * (side / data.side_px) ** 2)))
        jobs += do(with_seeds(chosen(of_side, arms, of=data)))
        long = chosen(replace(of_side, steps=LONGER * data.steps), arms, of=data)
    write(score_table([*jobs, *do(long)], WHOLE.name), out / "sides.csv")


def borders(data: Needles, do: Do, out: Path) -> None:
    """Tiles of several sides, pooled as the whole image is."""
    do(tune(data, BORDERS))
    jobs = do(with_seeds(chosen(data, (WHOLE, *BORDERS))))
    write(score_table(jobs, WHOLE.name), out / "borders.csv")


def slides(data: Slides, do: Do, out: Path) -> None:
    """The arms on slides with small lesions, as on canvases; then with more steps those that had not begun to learn."""
    do(tune(data, SLIDES))
    best = chosen(data, SLIDES)
    late = [job for job in best if not has_begun(job)]
    long = [replace(job, data=replace(data, steps=LONGER_SLIDES[job.arm.reads] * data.steps)) for job in late]
    write_slides(data, do(with_seeds(best)), do(with_seeds(long)), out)


def write_slides(data: Slides, jobs: Sequence[Job], long: Sequence[Job], out: Path) -> None:
    """The tables of the arms on slides, and of what each has learned in the end about each range of lesion shares."""
    write(score_table(jobs, WHOLE.name), out / "slides.csv")
    write(score_table(long, WHOLE.name), out / "slides_longer.csv")
    write(curve_table([*jobs, *long]), out / "slides_curves.csv")
    edges = np.geomspace(data.least_share, data.most_share, SHARE_RANGES + 1)
    edges[-1] += 1e-6
    again = {job.arm for job in long}
    last = [*(job for job in jobs if job.arm not in again), *long]
    write(share_table(last, WHOLE.name, data.lesion_shares, edges.tolist()), out / "slides_shares.csv")


def heat(data: Needles, do: Do, out: Path) -> None:
    """Whether the highest place of the class activation map of the whole image is the digit that is sought."""
    do(tune(data, [WHOLE]))
    jobs = do(with_seeds(longer(data, [WHOLE], do)))
    write(heat_table(jobs, data.canvases("test")), out / "needles_heat.csv")


def quick(data: Needles, do: Do, out: Path) -> None:
    """Three arms with one learning rate."""
    jobs = do(Job(data, arm, QUICK_RATE, SEEDS[0]) for arm in QUICK)
    table = score_table(jobs, WHOLE.name)
    write(table, out / "quick.csv")
    print(table[["arm", "train_loss", "train_cpu_s", "test_auroc", "low", "high"]].round(3).to_string(index=False))


def cost(out: Path) -> None:
    """One training step of each arm against the side of the image."""
    write(measure([512, 1024, 2048, 4096, 8192], repeats=3, most_bytes=6e9), out / "cost.csv")


def write(table: pd.DataFrame, path: Path) -> None:
    """A table as CSV, with five significant digits."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table.to_csv(path, index=False, float_format="%.5g", lineterminator="\n")
    print(f"wrote {path}")


def main() -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(prog="python -m study", description=__doc__.splitlines()[0])
    names = ("needles", "borders", "sides", "heat", "slides", "cost", "figures")
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(names)}; all without any")
    parser.add_argument("--quick", action="store_true", help="a short form of the first part, in about two minutes")
    parser.add_argument("--out", type=Path, default=Path("docs/study"), help="folder of tables and figures")
    parser.add_argument("--kept", type=Path, default=Path("runs/study"), help="folder of data and trained networks")
    parser.add_argument("--workers", type=int, default=1, help="trainings at a time, one thread each")
    options = parser.parse_args()
    if unknown := set(options.parts) - set(names):
        parser.error(f"no such part: {', '.join(sorted(unknown))}. Choose from {', '.join(names)}")
    parts, out = options.parts or names, options.out
    with process_pool(options.workers) if options.workers > 1 else nullcontext() as pool:

        def do(jobs: Iterable[Job]) -> list[Job]:
            wanted = list(jobs)
            list(run(wanted, pool, partial(print, flush=True)))
            return wanted

        if options.quick:
            quick(Needles(options.kept, side_px=48, digits=4, steps=300, held=200), do, options.kept)
            return
        data = Needles(options.kept, steps=300)
        if "needles" in parts:
            needles(data, NEEDLES, do, out)
        if "borders" in parts:
            borders(data, do, out)
        if "sides" in parts:
            sides(data, do, out)
        if "heat" in parts:
            heat(data, do, out)
        if "slides" in parts:
            slides(Slides(options.kept), do, out)
    if "cost" in parts:
        cost(out)
    if "figures" in parts:
        figures.draw(out)


if __name__ == "__main__":
    main()
