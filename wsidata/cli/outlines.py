"""The command `wsidata outlines SLIDE...`, which draws tissue, its pieces and annotations over slides."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wsidata.cli.arguments import (
    add_pixel_arguments,
    add_resolution_arguments,
    pixel_options,
    progress_bar,
    resolution_of,
)
from wsidata.utils.flags import flags_of, say_in_flags

if TYPE_CHECKING:
    from wsidata.annotations.annotations import Annotations
    from wsidata.slides.slide import Slide

HELP = "tissue, its pieces, artifacts and annotations as pictures, and as GeoJSON for QuPath"
COLORS = {"pen": (30, 80, 230), "fold": (200, 30, 170), "bubble": (0, 170, 190), "blur": (235, 130, 0)}
"""Of artifacts."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    add = parser.add_argument
    add("slides", nargs="+", metavar="SLIDE", help="a slide")
    add("--out", "-o", required=True, metavar="FOLDER", help="folder for NAME.png and NAME.geojson of each slide")
    add("--tissue", action="store_true", help="outlines of the tissue")
    add("--exclude", nargs="+", default=[], metavar="ARTIFACT", choices=tuple(COLORS),
        help="what is no tissue, outlined in its own color: pen, fold, bubble, blur")  # fmt: skip
    add("--pack", action="store_true", help="the pieces that crop='pack' reads at the resolution below")
    add("--annotations", metavar="FOLDER", help="folder with a file of ASAP, ImageScope or QuPath of each slide's name")
    add("--picture-side", type=int, default=1600, metavar="PX", help="longer side of the slide in a picture (1600)")
    add("--overwrite", action="store_true", help="replace files that exist")
    add("--quiet", action="store_true", help="no progress bar")
    add_resolution_arguments(parser, required=False)
    add_pixel_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Draw and write; 1 if a slide cannot be read."""
    from wsidata.evaluation.save import save_figure
    from wsidata.plots import plot_outlines
    from wsidata.slides.slide import Slide

    paths, out = [Path(one) for one in arguments.slides], Path(arguments.out)
    _check(arguments, paths, out)
    failed = 0
    with progress_bar("slides", quiet=arguments.quiet or len(paths) < 3) as progress:
        for number, path in enumerate(paths, start=1):
            try:
                with Slide(path, **pixel_options(arguments)) as slide:
                    found = _outlines(arguments, slide)
                    figure = plot_outlines(slide, found, arguments.picture_side)
            except (ValueError, OSError, LookupError) as error:
                failed += 1
                print(f"{path}: {say_in_flags(str(error), flags_of(add_arguments))}", file=sys.stderr)
            else:
                save_figure(figure, out / f"{path.stem}.png", dpi=120)
                found.write(out / f"{path.stem}.geojson")
            progress(number, len(paths))
    return int(failed > 0)


def _outlines(arguments: argparse.Namespace, slide: Slide) -> Annotations:
    from wsidata.annotations.annotations import Annotations
    from wsidata.formats.resolution import Resolution
    from wsidata.slides.artifacts.find import find_artifacts
    from wsidata.slides.artifacts.without import TissueWithout
    from wsidata.slides.tissue.crop import TissueCrop
    from wsidata.slides.tissue.methods import TissueMethod, find_tissue
    from wsidata.tables.find_slides import MaskFolder

    parts: list[Any] = []
    method: TissueMethod = find_tissue
    if arguments.exclude:
        method = TissueWithout(arguments.exclude)
    if arguments.tissue:
        parts.append(slide.tissue_mask(method).annotations())
    if arguments.pack:
        parts.append(
            TissueCrop("pack", method=method).plan(slide, Resolution.of(resolution_of(arguments))).annotations()
        )
    if arguments.exclude:  # drawn over the tissue, whose outlines run along theirs
        for kind, mask in find_artifacts(slide, slide.tissue_mask(), arguments.exclude).items():
            parts.append(mask.annotations(kind.capitalize(), color=COLORS[kind]))
    if arguments.annotations is not None:
        path = MaskFolder(arguments.annotations).find_outlines(slide.path.name)
        if path is None:
            raise FileNotFoundError(f"'{arguments.annotations}' has no annotations of this name. Add them there.")
        parts.append(Annotations.read(path))
    return Annotations(
        tuple(outline for one in parts for outline in one.outlines),
        tuple({known.name: known for one in parts for known in one.classes}.values()),
    )


def _check(arguments: argparse.Namespace, paths: list[Path], out: Path) -> None:
    if not (arguments.tissue or arguments.pack or arguments.annotations or arguments.exclude):
        raise ValueError("nothing to outline was named. Pass --tissue, --exclude, --pack or --annotations FOLDER.")
    if arguments.pack and not resolution_of(arguments):
        raise ValueError("--pack needs the resolution that slides are read at, such as --mpp 2.")
    if arguments.annotations is not None and not Path(arguments.annotations).is_dir():
        raise FileNotFoundError(f"--annotations {arguments.annotations}: there is no such folder.")
    twice = [name for name, count in Counter(path.stem.lower() for path in paths).items() if count > 1]
    if twice:
        raise ValueError(f"several slides are named '{twice[0]}', and would have the same files. Draw them one by one.")
    there = [file for path in paths for end in (".png", ".geojson") if (file := out / f"{path.stem}{end}").exists()]
    if there and not arguments.overwrite:
        raise FileExistsError(f"'{there[0]}' exists. Pass --overwrite, or another folder with --out.")
    for path in paths:
        if any((out / f"{path.stem}{end}").absolute() == path.absolute() for end in (".png", ".geojson")):
            raise FileExistsError(f"'{path}' is read here, and would be replaced. Name another folder with --out.")
