"""The command `wsidata regions TABLE`, which writes outlined regions as slides of their own."""

from __future__ import annotations

import argparse

from wsidata.cli.arguments import add_pixel_arguments, pixel_options, progress_bar

HELP = "outlined regions as slides of their own, with a table to train on"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    add = parser.add_argument
    add("table", help="CSV or Parquet table of slides")
    add("--annotations", required=True, metavar="FOLDER",
        help="folder with a file of ASAP, ImageScope or QuPath of each slide's name")  # fmt: skip
    add("--out", "-o", required=True, metavar="FOLDER", help="folder for images/, annotations/ and regions.csv")
    add("--image-dir", help="folder of the slides (default: the table's own)")
    add("--image-column", default="image", help="column of slide names (default: %(default)s)")
    add("--group-column", help="column of patients, whose regions stay in one split (default: those of a slide do)")
    add("--outline-class", nargs="+", default=[], metavar="NAME", action="extend",
        help="class of outlines that are regions (default: all)")  # fmt: skip
    add("--unannotated", choices=("error", "skip"), default="error", help="slides without a file (%(default)s)")
    add("--compression", choices=("deflate", "lzw", "none", "jpeg"), default="deflate",
        help="deflate, lzw and none keep every bit (%(default)s)")  # fmt: skip
    add("--overwrite", action="store_true", help="replace files that exist")
    add("--quiet", action="store_true", help="no progress bar")
    add_pixel_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Write the regions."""
    from wsidata.slides.exchange.region_files import write_regions

    chosen = vars(arguments)
    names = ("image_dir", "image_column", "group_column", "unannotated", "compression", "overwrite")
    with progress_bar("slides", quiet=arguments.quiet) as progress:
        found = write_regions(
            arguments.table, arguments.out, arguments.annotations, classes=arguments.outline_class, done=progress,
            **{name: chosen[name] for name in names}, **pixel_options(arguments),
        )  # fmt: skip
    print(f"{len(found)} regions of {found['slide'].nunique()} slides: {arguments.out}/regions.csv")
    return 0
