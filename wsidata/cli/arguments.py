"""Options that several commands share, and how they show progress: on standard error, so that output can be piped."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


def add_table_arguments(parser: argparse.ArgumentParser) -> None:
    """The table, and what its columns are called."""
    parser.add_argument("table", help="CSV or Parquet table of slides, or a folder with a folder of images per class")
    parser.add_argument("--image-dir", help="folder of the slides (default: the table's own)")
    parser.add_argument("--image-column", default="image", help="column of slide names (default: %(default)s)")
    parser.add_argument("--label-column", default="class", help="column of labels (default: %(default)s)")
    parser.add_argument("--group-column", help="column of patients, who are never divided")
    parser.add_argument("--site-column", help="column of centres or scanners")


def add_output_arguments(parser: argparse.ArgumentParser) -> None:
    """How to answer."""
    parser.add_argument("--json", action="store_true", help="answer in JSON")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")


RESOLUTIONS = ("level", "mpp", "magnification", "downsample", "max_side")


def add_resolution_arguments(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    """The five ways to say at which resolution slides are read."""
    group = parser.add_mutually_exclusive_group(required=required)
    group.add_argument("--level", type=int, help="pyramid level, 0 is the finest")
    group.add_argument("--mpp", type=float, help="um per pixel")
    group.add_argument("--magnification", type=float, help="objective power")
    group.add_argument("--downsample", type=float, help="level-0 pixels per pixel")
    group.add_argument("--max-side", type=int, help="longest side in pixels")


def resolution_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """The one that was given."""
    return {name: value for name in RESOLUTIONS if (value := getattr(arguments, name)) is not None}


CHANNELS_HELP = "numbers or names of channels, with commas, for slides of many channels"


def add_pixel_arguments(parser: argparse.ArgumentParser) -> None:
    """How the stored samples of slides become pixels."""
    parser.add_argument("--mpp-override", type=float, help="spacing of level 0 to believe instead of the files'")
    parser.add_argument("--channels", type=channel_list, help=CHANNELS_HELP)
    parser.add_argument(
        "--scale-to-8bit", nargs=2, type=float, metavar=("LOW", "HIGH"), help="stored values that become 0 and 255"
    )
    parser.add_argument("--apply-icc", action="store_true", help="turn colours into sRGB by the slides' own profiles")


def pixel_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """Keyword arguments for `Slide`, of `add_pixel_arguments`."""
    scale = arguments.scale_to_8bit
    return {
        "mpp_override": arguments.mpp_override,
        "channels": arguments.channels,
        "scale_to_8bit": None if scale is None else tuple(scale),
        "apply_icc": arguments.apply_icc,
    }


def channel_list(text: str) -> list[int | str]:
    """Channels as they are given on a command line: `DAPI,3`."""
    names = [name.strip() for name in text.split(",")]
    return [int(name) if name.isdecimal() else name for name in names]


def table_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """Keyword arguments for `tables.read_table`."""
    names = ("image_dir", "image_column", "label_column", "group_column", "site_column")
    return {name: getattr(arguments, name) for name in names}


def print_json(content: Any) -> None:
    """Print JSON, and nothing that is not JSON."""
    print(json.dumps(content, indent=2, default=str, allow_nan=False))


@contextmanager
def progress_bar(title: str, *, quiet: bool) -> Iterator[Callable[[int, int], None]]:
    """A function that is told how many of how many are done."""
    from tqdm.auto import tqdm

    with tqdm(desc=title, unit="slide", disable=quiet, file=sys.stderr, leave=False) as bar:

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield show
