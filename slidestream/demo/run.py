"""The demonstration, step by step."""

from __future__ import annotations

import time
from pathlib import Path

import torch

from slidestream.demo.figure import draw_truth
from slidestream.demo.memory import BUDGET, MeasuredStep, measure_step
from slidestream.training.command import run_command
from slidestream.training.run_folder import RunFolder
from wsidata.synthetic.slides import write_camelyon16

SEED = 42
SLIDE_PX = 1024
TEST_SLIDES = ("test_002", "test_004")
"""Two of the slides with tumor, which the network was not trained on."""


def run_demo(out: Path) -> None:
    """Write slides, train, evaluate, draw heat maps beside the true tumor, and take a step on a large image.

    Args:
        out: Folder for everything.

    Raises:
        FileExistsError: if it holds a run already.
    """
    started, slides = time.monotonic(), out / "slides"
    if any(RunFolder(out).checkpoints.glob("*.ckpt")):
        raise FileExistsError(f"'{out}' holds a run already: name another folder with --out, or delete it.")
    _say("1. Synthetic slides of lymph nodes, with and without tumor", slides)
    write_camelyon16(slides, normal=20, tumor=20, test=10, size_px=(SLIDE_PX, SLIDE_PX), seed=SEED, masks=True)
    _say("2. A streaming ResNet-18 from random weights, trained on 32 of them", out)
    threads = torch.get_num_threads()
    torch.set_num_threads(min(threads, 4))  # the images are small, and many threads mostly wait for each other
    run_command("fit", ["--config", "demo", f"--data.folder={slides}", f"--out={out}"])
    torch.set_num_threads(threads)
    _say("3. Where it sees tumor, and where tumor is", out / "tumor.png")
    draw_truth(out, slides, TEST_SLIDES)
    _say("4. A training step on an image of 4096 x 4096 pixels, in strips")
    print(describe_step(measure_step()))
    print(f"\nDone in {time.monotonic() - started:.0f} s. Look at {out / 'report.html'} and {out / 'tumor.png'}.")
    print(f"Predict slides of your own: slidestream predict {out}/checkpoints/best.ckpt SLIDE... --out predictions.csv")


def describe_step(step: MeasuredStep) -> str:
    """The measured step and the forecasts, as text."""
    lines = [
        f"   At most {BUDGET} were asked for; what an image leaves of that saves computing strips twice.",
        f"   4096 x 4096: {step.peak_bytes / 1e9:.2f} GB measured, in {step.seconds:.0f} s; "
        f"plain training: {step.plain_bytes / 1e9:.1f} GB (forecast)",
    ]
    lines += [
        f"   {side} x {side}: {streamed / 1e9:.2f} GB; plain training: {plain / 1e9:.0f} GB (forecasts)"
        for side, (streamed, plain) in step.larger.items()
    ]
    return "\n".join(lines)


def _say(title: str, path: Path | None = None) -> None:
    print(f"\n{title}{'' if path is None else f': {path}'}", flush=True)
