"""The command `slidestream heatmap`, which draws where a network sees a class on images."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slidestream.cli.messages import in_flags

if TYPE_CHECKING:
    from slidestream.heatmaps.draw import DrawnImage

HELP = "heat maps of slides or photos"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    add = parser.add_argument
    add("checkpoint", help="checkpoint that fit wrote, such as RUN/checkpoints/best.ckpt")
    add("images", nargs="+", metavar="SLIDE", help="slides, or photos for a network that was trained on photos")
    add("--out", "-o", required=True, metavar="FOLDER", help="folder for the files")
    add(
        "--class",
        dest="class_name",
        metavar="NAME",
        help="class to explain, by name or number (default: the predicted)",
    )
    add("--probability", action="store_true", help="probability of the class at each location, instead of its logit")
    add("--regions", type=_count, default=0, metavar="K", help="show the K hottest places at full resolution")
    add("--geojson", action="store_true", help="outlines of the hottest regions, for QuPath")
    add("--quantile", type=float, default=0.98, help="fraction of the map outside these regions (%(default)s)")
    add("--threshold", type=float, help="value from which on a location is in them, instead of --quantile")
    add("--saliency", action="store_true", help="also the gradient of the logit; slower than a training step")
    add("--stride", type=_count, help="side in pixels of the blocks it is reduced over (least for 4096 a side)")
    add("--reduce", choices=("max", "mean"), default="max", help="of its absolute values in a block (%(default)s)")
    outlined = parser.add_argument_group(
        "annotations", "outlines of lesions are drawn over the maps; with --class the maps are scored against them "
        "(FROC by the rules of Camelyon16, pointing game, Dice of --threshold), for each slide and for all"
    )  # fmt: skip
    outlined.add_argument("--annotations", metavar="FOLDER",
        help="folder with a file of ASAP, ImageScope or QuPath of each slide's name")  # fmt: skip
    outlined.add_argument("--outline-class", nargs="+", default=[], metavar="NAME", action="extend",
        help="class of outlines that are lesions (default: all)")  # fmt: skip
    outlined.add_argument("--unannotated", choices=("error", "normal"), default="error",
        help="what slides without a file are: normal are those without lesions (%(default)s)")  # fmt: skip
    outlined.add_argument("--groups", metavar="TABLE",
        help="table of the patient of each slide, such as split.csv of a run, with the columns image (or image_id) and "
        "group: intervals are then by patient")  # fmt: skip
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--mpp", type=float, help="resolution to read at, um/px (default: as in training)")
    size.add_argument("--level", type=int, help="pyramid level to read, instead of --mpp")
    add("--mpp-override", type=float, metavar="MPP", help="um/px of level 0, for slides that do not say, or wrongly")
    add("--allow-changed", nargs="+", default=[], metavar="SETTING", action="extend",
        help="what may differ from training: resolution, as given; crop, image_size: whole slides; eval_transform: "
        "none")  # fmt: skip
    add("--memory", metavar="8GB", help="memory budget of the network (default: as in training)")
    add("--device", help="such as cuda or cpu (default: cuda where there is one)")
    add("--model-class", metavar="MODULE.CLASS", help="class of the network, if it is your own")
    add("--overwrite", action="store_true", help="replace files that exist")
    add("--quiet", "-q", action="store_true", help="print errors only")


def run(arguments: argparse.Namespace) -> int:
    """Draw; 1 if an image could not be read."""
    import torch

    from slidestream.heatmaps.draw import HeatmapOptions, draw_heatmaps, score_drawn
    from slidestream.trained import load_trained

    folder = next((one for one in map(Path, arguments.images) if one.is_dir() and one.suffix.lower() != ".zarr"), None)
    if folder is not None:
        raise ValueError(
            f"'{folder}' is a folder. Name the images in it, such as {folder}/*.tif, or draw them all with "
            "slidestream predict --heatmaps."
        )
    reading = {
        name: value for name in ("mpp", "level", "mpp_override") if (value := getattr(arguments, name)) is not None
    }
    drawn = ("class_name", "probability", "saliency", "stride", "reduce", "regions", "geojson", "quantile", "threshold")
    options = HeatmapOptions(
        **{name: getattr(arguments, name) for name in drawn}, allow_changed=arguments.allow_changed, reading=reading,
        existing="replace" if arguments.overwrite else "error", annotations=arguments.annotations,
        groups=arguments.groups, outline_classes=arguments.outline_class, unannotated=arguments.unannotated,
    )  # fmt: skip
    if arguments.annotations is not None and arguments.class_name is None and not arguments.quiet:
        said = "Outlines are drawn, and maps are not scored: that needs --class, the class that is outlined."
        print(said, file=sys.stderr, flush=True)
    changed: dict[str, Any] = {} if arguments.memory is None else {"memory": arguments.memory}
    trained = load_trained(arguments.checkpoint, arguments.model_class, **changed)
    try:
        trained.model.to(arguments.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    except RuntimeError as error:
        raise ValueError(f"--device {arguments.device} cannot be used: {str(error).splitlines()[0]}") from error

    def show(one: DrawnImage) -> None:
        if one.error:
            print(f"{one.path}: {in_flags(one.error, 'heatmap')}", file=sys.stderr)
        elif not arguments.quiet:
            print(f"{one.path.name}: {one.class_name} {one.score:.3g}: {', '.join(map(str, one.files))}", flush=True)
        if one.note:
            print(f"{one.path}: {one.note}", file=sys.stderr)

    results = draw_heatmaps(trained, arguments.images, arguments.out, options, done=show)
    scores = score_drawn(results, arguments.out, options)
    if scores is not None and not arguments.quiet:
        print(f"{scores}: {', '.join(map(str, scores.files))}")
    return int(any(one.error for one in results))


def _count(text: str) -> int:
    """A whole number from 1 on."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number from 1 on")
    return number
