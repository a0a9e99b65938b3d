"""The command `slidestream features`, which encodes the tiles of slides with a pretrained network."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

HELP = "features of tiles, for multiple-instance learning"

_MEASURES = {"level": int, "mpp": float, "magnification": float, "downsample": float}
_PASSED_ON = ("stride", "border", "min_tissue", "image_column", "on_error", "mpp_override", "stage_dir", *_MEASURES)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    add = parser.add_argument
    add("images", nargs="+", help="one table (CSV, Parquet) or folder of slides, or slides")
    add("-o", "--out", default="features", help="folder of the files, one a slide (%(default)s)")
    add("--encoder", default="torchvision/resnet18", metavar="NAME",
        help="torchvision/NAME, timm/NAME, or MODULE.NAME of your own (%(default)s)")  # fmt: skip
    add("--weights", default="DEFAULT", help="a file, or none for random weights (what its library publishes)")
    add("--tile-size", type=int, default=256, help="side of a tile in pixels of the resolution (%(default)s)")
    add("--stride", type=int, help="pixels from one tile to the next (the side of a tile)")
    resolution = parser.add_mutually_exclusive_group(required=True)
    for name, kind in _MEASURES.items():
        resolution.add_argument(f"--{name}", type=kind, help="resolution to read at")
    add("--border", choices=("drop", "pad", "shift"), help="tiles that reach beyond the slide (drop)")
    add("--min-tissue", type=float, help="least share of a tile that is tissue (0.25)")
    add("--exclude", nargs="+", metavar="ARTIFACT", help="what is no tissue: some of pen, fold, bubble, blur (none)")
    add("--image-dir", help="folder of the slides of a table (its own)")
    add("--image-column", help="column of a table with the slides (image)")
    add("--mpp-override", type=float, help="um per pixel of level 0, for files that do not say")
    add("--on-error", choices=("raise", "skip"), help="what to do about slides that cannot be read (raise)")
    add("--batch-size", type=int, default=64, help="tiles at a time (%(default)s)")
    add("--workers", type=int, default=2, help="processes that read tiles (%(default)s)")
    add("--stage-dir", help="folder on a local disk that slides are copied to ahead, and read from")
    add("--device", help="such as cuda or cpu (default: cuda where there is one)")
    add("--precision", choices=("float32", "bfloat16", "float16"), default="float32", help="(%(default)s)")
    add("--overwrite", action="store_true", help="replace files; without, what is missing is encoded")
    add("--quiet", "-q", action="store_true", help="print errors only")


def run(arguments: argparse.Namespace) -> int:
    """Encode; 1 if slides were left out."""
    from slidestream.features import encode_slides
    from slidestream.training.noise import hush
    from wsidata.slides.artifacts.without import TissueWithout

    hush()
    chosen = vars(arguments)
    tiles: dict[str, Any] = {name: chosen[name] for name in _PASSED_ON if chosen[name] is not None}

    if arguments.exclude:
        tiles["tissue_method"] = TissueWithout(arguments.exclude)

    def show(path: Path, count: int) -> None:
        if not arguments.quiet:
            print(f"{path}: {count} tiles", flush=True)

    encoded = encode_slides(
        arguments.images, arguments.out, arguments.encoder, image_dir=arguments.image_dir,
        weights=None if arguments.weights.lower() == "none" else arguments.weights, batch_size=arguments.batch_size,
        device=arguments.device, precision=arguments.precision, overwrite=arguments.overwrite, done=show,
        tile_size=arguments.tile_size, num_workers=arguments.workers, **tiles,
    )  # fmt: skip
    for path, reason in encoded.skipped.items():
        print(f"{path}: left out: {reason}", file=sys.stderr)
    if not arguments.quiet:
        kept = f", {len(encoded.kept)} were there" if encoded.kept else ""
        print(f"{len(encoded.written)} files of features{kept}: {arguments.out}")
    return int(bool(encoded.skipped))
