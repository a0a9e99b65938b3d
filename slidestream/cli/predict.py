"""The command `slidestream predict`, which applies a trained network to new slides or photos."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from slidestream.predicting import Done

HELP = "predict new slides or photos with a trained network"

_MEASURES = {"level": int, "mpp": float, "magnification": float, "downsample": float, "max-side": int}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    add = parser.add_argument
    add("checkpoint", help="checkpoint or folder of a training run, which says how images are read, and the classes; "
        "the folder of a run with --folds gives the mean of its networks")  # fmt: skip
    add("images", nargs="+", help="image files, folders of images at any depth, addresses of slides, or one "
        "table (CSV, Parquet)")  # fmt: skip
    add("-o", "--out", default="predictions.csv", help="CSV file, written as predictions come (%(default)s)")
    add("--overwrite", action="store_true", help="replace the file; without, what it lacks is predicted")
    add("--share", action="store_true", help="share the work with other jobs of this same command")
    add("--heatmaps", action="store_true", help="draw a heat map of each image, in the folder heatmaps beside the file")
    add("--workers", type=int, default=2, help="processes that read images (%(default)s)")
    add("--batch-size", type=int, help="images at a time (1 slide, 32 photos)")
    add("--devices", default="1", help="as in Lightning (%(default)s)")
    add("--accelerator", default="auto", help="as in Lightning (%(default)s)")
    add("--precision", default="32-true", help="as in Lightning, such as bf16-mixed (%(default)s)")
    add("--image-dir", help="folder of the images of a table (its own)")
    add("--image-column", help="column of a table with the images (as in training)")
    add("--label-column", help="column with the truth, to print scores; none leaves it unread (as in training)")
    add("--case-column", help="column of cases, whose slides are one sample (as in training, if the table has it)")
    add("--stage-dir", help="folder on a local disk that images are copied to ahead, and read from")
    add("--stage-max-bytes", help="the most that copies take there, such as 200GB (half of the free disk)")
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
    chosen = vars(arguments)
    changed: dict[str, Any] = {
        name: chosen[name]
        for name in ("mpp_override", *(one.replace("-", "_") for one in _MEASURES))
        if chosen[name] is not None
    }
    done = _predict(arguments, changed)
    if not arguments.quiet and done.is_first:
        print(done.summary())
    are_drawn = not (arguments.heatmaps and done.is_first) or _draw(arguments, done, changed)
    return int(bool(done.unreadable) or not are_drawn)


def _predict(arguments: argparse.Namespace, changed: dict[str, Any]) -> Done:
    from slidestream.ensembles import is_run_of_folds, predict_folds
    from slidestream.predicting import predict

    chosen = vars(arguments)
    if arguments.share and arguments.heatmaps:
        raise ValueError(
            "--heatmaps is not for jobs that --share: draw them afterwards, by the command without --share."
        )
    of_folds = is_run_of_folds(arguments.checkpoint)
    if of_folds and arguments.heatmaps:
        raise ValueError(
            f"--heatmaps are of one network, and '{arguments.checkpoint}' has one of each fold. Leave the flag out, or "
            f"name the checkpoint of a fold, such as {arguments.checkpoint}/fold_0/checkpoints/best.ckpt."
        )
    return (predict_folds if of_folds else predict)(
        arguments.checkpoint,
        arguments.images,
        arguments.out,
        overwrite=arguments.overwrite,
        model_class=arguments.model_class,
        columns={name: chosen[name] for name in ("image_dir", "image_column", "label_column", "case_column")},
        loading={
            "num_workers": arguments.workers,
            "batch_size": arguments.batch_size,
            "stage_dir": arguments.stage_dir,
            "stage_max_bytes": arguments.stage_max_bytes,
        },
        changed={"allow_changed": tuple(arguments.allow_changed), **changed},
        trainer={name: chosen[name] for name in ("devices", "accelerator", "precision")},
        share=arguments.share,
        quiet=arguments.quiet,
    )


def _draw(arguments: argparse.Namespace, done: Done, changed: dict[str, Any]) -> bool:
    """Draw the maps of what was predicted that are not there yet; whether all could be."""
    import torch

    from slidestream.heatmaps import HeatmapOptions, draw_heatmaps
    from slidestream.trained import load_trained
    from wsidata.evaluation import read_predictions

    if done.is_of_cases:
        print("heat maps are of one slide, and none of cases: slidestream heatmap CHECKPOINT SLIDES", file=sys.stderr)
        return False
    table = read_predictions(done.out)
    rows = table[table["error"] == ""]
    options = HeatmapOptions(
        picture_only=True, existing="replace" if arguments.overwrite else "skip",
        allow_changed=arguments.allow_changed, reading=changed,
    )  # fmt: skip
    trained = load_trained(arguments.checkpoint, arguments.model_class)
    on_gpu = torch.cuda.is_available() and arguments.accelerator in ("auto", "gpu", "cuda")
    trained.model.to("cuda" if on_gpu else "cpu")
    folder = Path(done.out).parent / "heatmaps"
    drawn = draw_heatmaps(trained, list(rows["path"]), folder, options, names=list(rows["image"]))
    failed = [one for one in drawn if one.error]
    for one in failed:
        print(f"{one.path}: no heat map: {one.error}", file=sys.stderr)
    if not arguments.quiet:
        print(f"{len(drawn) - len(failed)} heat maps: {folder}")
    return not failed
