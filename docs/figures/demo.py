"""Draws docs/figures/demo.png, slides of the demonstration, their true tumor and what the trained network sees.

python docs/figures/demo.py [RUN]     the folder of `slidestream demo`; without it there, the demonstration is run first
"""

import sys
from pathlib import Path

from PIL import Image

from slidestream.demo.figure import draw_truth
from slidestream.demo.run import TEST_SLIDES, run_demo


def main(run: Path) -> None:
    """Draw, and save with few colors."""
    if not (run / "checkpoints" / "best.ckpt").exists():
        run_demo(run)
    draw_truth(run, run / "slides", TEST_SLIDES)
    with Image.open(run / "tumor.png") as picture:
        size = (picture.width * 3 // 4, picture.height * 3 // 4)
        small = picture.convert("RGB").resize(size, Image.Resampling.LANCZOS)
    small.quantize(256, dither=Image.Dither.NONE).save(Path(__file__).with_suffix(".png"), optimize=True)


if __name__ == "__main__":
    main(Path(*sys.argv[1:2]) if sys.argv[1:] else Path("runs", "demo"))
