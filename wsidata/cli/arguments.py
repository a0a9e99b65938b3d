"""Arguments shared by commands, and progress bars (on standard error, so that output can be piped)."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from wsidata.formats.channels import RGB
from wsidata.formats.resolution import MEASURES

PLOT_SUFFIXES = (".png", ".pdf", ".svg")
_DRAWN_BY = b"atplotlib"  # matplotlib's name is in the metadata of each of them


def add_table_arguments(parser: argparse.ArgumentParser) -> None:
    """Add arguments for the table and its columns."""
    parser.add_argument("table", help="CSV or Parquet table of slides, or a folder with a folder of images per class")
    parser.add_argument("--image-dir", help="folder of the slides (default: the table's own)")
    parser.add_argument("--image-column", default="image", help="column of slide names (default: %(default)s)")
    parser.add_argument("--label-column", default="class", help="column of labels (default: %(default)s)")
    parser.add_argument(
        "--class-names", nargs="+", metavar="NAME", help="classes in order; or LABEL=CLASS for each label of the table"
    )
    parser.add_argument(
        "--target", choices=("class", "ordinal", "multilabel", "regression", "survival"), default="class",
        help="one class, one with an order, several (separated by ;), numbers, or time and event (columns with commas)",
    )  # fmt: skip
    parser.add_argument("--decimal", choices=(".", ","), default=".", help="decimal mark of numbers (default: .)")
    parser.add_argument("--group-column", help="column of patients, each kept in one split")
    parser.add_argument("--site-column", help="column of centers or scanners")
    parser.add_argument("--case-column", help="column of cases, of whose slides all are one sample")


def add_split_arguments(parser: argparse._ActionsContainer) -> None:
    """Add arguments for a split."""
    parser.add_argument("--val-fraction", type=float, default=0.2, help="fraction to validate on (default: 0.2)")
    parser.add_argument("--test-fraction", type=float, default=0.0, help="fraction to test on (default: 0)")
    parser.add_argument("--seed", type=int, default=42, help="seed of the split (default: 42)")
    parser.add_argument("--split-column", help="column that predefines train, val or test")
    parser.add_argument("--test-prefix", help="prefix of the names of test images")


def add_output_arguments(parser: argparse.ArgumentParser) -> None:
    """Add arguments for the output."""
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")


def refuse_inputs(output: str | Path, inputs: Iterable[str | None]) -> None:
    """Raise, whatever `--overwrite` says, if the output is a file that the command reads."""
    written = Path(output)
    for name in inputs:
        if name and written.exists() and Path(name).exists() and written.samefile(name):
            raise FileExistsError(f"'{output}' is read here: name another file with --output. Nothing was written.")


def check_plot(path: str | None) -> None:
    """Raise if `--plot` names a file that is no plot: a shell makes `--plot a.tif b.tif` of `--plot *.tif`."""
    if path is None:
        return
    if Path(path).suffix.lower() not in PLOT_SUFFIXES:
        raise ValueError(f"--plot {path}: plots are {', '.join(PLOT_SUFFIXES)} files. Name one behind --plot.")
    if Path(path).is_file() and _DRAWN_BY not in Path(path).read_bytes():
        raise FileExistsError(f"--plot {path}: the file exists and is no plot. Name another one behind --plot.")


def add_resolution_arguments(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    """Add arguments for the resolution slides are read at."""
    group = parser.add_mutually_exclusive_group(required=required)
    group.add_argument("--level", type=int, help="pyramid level, 0 is the finest")
    group.add_argument("--mpp", type=float, help="um per pixel")
    group.add_argument("--magnification", type=float, help="objective power")
    group.add_argument("--downsample", type=float, help="level-0 pixels per pixel")
    group.add_argument("--max-side", type=int, help="longest side in pixels")


def resolution_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """The resolution that was given, as a keyword argument; none if it was not."""
    return {name: value for name in MEASURES if (value := getattr(arguments, name)) is not None}


CHANNELS_HELP = (
    "numbers or names of channels, with commas, for slides of many channels; rgb: three are red, green, blue"
)


def add_pixel_arguments(parser: argparse.ArgumentParser) -> None:
    """Add arguments of `SlideOptions`."""
    parser.add_argument("--mpp-override", type=float, help="um per pixel of level 0, instead of the files' own")
    parser.add_argument("--channels", type=channel_list, help=CHANNELS_HELP)
    parser.add_argument(
        "--scale-to-8bit", nargs=2, type=float, metavar=("LOW", "HIGH"), help="stored values that become 0 and 255"
    )
    add_plane_arguments(parser)
    parser.add_argument("--apply-icc", action="store_true", help="convert colors to sRGB by the slides' profiles")


def add_plane_arguments(parser: argparse.ArgumentParser) -> None:
    """Add arguments for the image and plane of files with several."""
    parser.add_argument("--series", type=int, help="number of the image, from 0, of files with several")
    parser.add_argument("--z", type=int, help="number of the focal plane, from 0, of stacks")
    parser.add_argument("--t", type=int, help="number of the point in time, from 0")


def pixel_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """Keyword arguments of `SlideOptions`, from `add_pixel_arguments`."""
    names = ("mpp_override", "channels", "scale_to_8bit", "apply_icc", "series", "z", "t")
    return {name: getattr(arguments, name) for name in names}


def channel_list(text: str) -> list[int | str] | str:
    """Channels from the command line, such as `DAPI,3`, or `rgb`."""
    if text.lower() == RGB:
        return RGB
    names = [name.strip() for name in text.split(",")]
    return [int(name) if name.isdecimal() else name for name in names]


def table_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """Keyword arguments of `read_table`."""
    names = ["image_dir", "image_column", "label_column", "target", "decimal"]
    names += ["group_column", "site_column", "case_column"]
    options = {name: getattr(arguments, name) for name in names}
    if arguments.target != "class" and "," in arguments.label_column:
        options["label_column"] = arguments.label_column.split(",")
    return options | {"class_names": _class_names(arguments.class_names)}


def _class_names(given: list[str] | None) -> list[str] | dict[str, str] | None:
    """Classes in order, or the class of each label."""
    if given is None or not all("=" in name for name in given):
        return given
    return dict(name.split("=", 1) for name in given)


def print_json(content: Any) -> None:
    """Print strict JSON."""
    print(json.dumps(content, indent=2, default=str, allow_nan=False))


@contextmanager
def progress_bar(title: str, *, quiet: bool) -> Iterator[Callable[[int, int], None]]:
    """A progress bar, as a function of the numbers of slides done and in all."""
    from tqdm.auto import tqdm

    with tqdm(desc=title, unit="slide", disable=quiet, file=sys.stderr, leave=False) as bar:

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield show
