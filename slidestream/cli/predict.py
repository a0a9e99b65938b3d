"""The command `slidestream predict`, which applies a trained network to new slides or photos."""

from __future__ import annotations

import argparse
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from slidestream.predicting import Done

HELP = "predict new slides or photos with a trained network"

_MEASURES = {"level": int, "mpp": float, "magnification": float, "downsample": float, "max-side": int}
_ALLOWED = re.compile(r"allow_changed=\[([^\]]*)\]")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    add = parser.add_argument
    add("checkpoint", help="checkpoint of a training run; how images are read, and the classes, come from it")
    add("images", nargs="+", help="image files, folders of images at any depth, or one table (CSV, Parquet)")
    add("-o", "--out", default="predictions.csv", help="CSV file, written as predictions come (%(default)s)")
    add("--overwrite", action="store_true", help="replace the file; without, what it lacks is predicted")
    add("--workers", type=int, default=2, help="processes that read images (%(default)s)")
    add("--batch-size", type=int, help="images at a time (1 slide, 32 photos)")
    add("--devices", default="1", help="as in Lightning (%(default)s)")
    add("--accelerator", default="auto", help="as in Lightning (%(default)s)")
    add("--precision", default="32-true", help="as in Lightning, such as bf16-mixed (%(default)s)")
    add("--image-dir", help="folder of the images of a table (its own)")
    add("--image-column", help="column of a table with the images (as in training)")
    add("--label-column", help="column with the truth, to print scores; none leaves it unread (as in training)")
    add("--model-class", metavar="MODULE.CLASS", help="class of the network, if it is not one of streammodels")
    reading = parser.add_argument_group(
        "reading otherwise than in training", "for images that the network does not know; say so by --allow-changed"
    )
    reading.add_argument("--allow-changed", nargs="+", metavar="SETTING", default=[], help="such as resolution")
    for name, kind in _MEASURES.items():
        reading.add_argument(f"--{name}", type=kind, help="resolution to read at instead")
    reading.add_argument("--mpp-override", type=float, help="um per pixel of level 0, for files that do not say")
    add("--quiet", action="store_true", help="no progress, no summary")


def run(arguments: argparse.Namespace) -> int:
    """Predict, and print a summary; 1 if some images could not be read."""
    from wsidata.datamodules.geometry import GeometryError

    chosen = vars(arguments)
    changed: dict[str, Any] = {
        name: chosen[name]
        for name in ("mpp_override", *(one.replace("-", "_") for one in _MEASURES))
        if chosen[name] is not None
    }
    try:
        done = _predict(arguments, changed)
    except GeometryError as error:
        raise GeometryError(_ALLOWED.sub(_as_flag, str(error))) from error
    if not arguments.quiet and done.is_first:
        print(done.summary())
    return int(bool(done.unreadable))


def _predict(arguments: argparse.Namespace, changed: dict[str, Any]) -> Done:
    from slidestream.predicting import predict

    chosen = vars(arguments)
    return predict(
        arguments.checkpoint,
        arguments.images,
        arguments.out,
        overwrite=arguments.overwrite,
        model_class=arguments.model_class,
        columns={name: chosen[name] for name in ("image_dir", "image_column", "label_column")},
        loading={"num_workers": arguments.workers, "batch_size": arguments.batch_size},
        changed={"allow_changed": tuple(arguments.allow_changed), **changed},
        trainer={name: chosen[name] for name in ("devices", "accelerator", "precision")},
        quiet=arguments.quiet,
    )


def _as_flag(found: re.Match[str]) -> str:
    return f"--allow-changed {found[1].replace(chr(39), '').replace(',', '')}"
