"""The command `wsidata stats SLIDE...`, which computes channel statistics for normalization."""

from __future__ import annotations

import argparse
from pathlib import Path

from wsidata.cli.arguments import (
    add_output_arguments,
    add_pixel_arguments,
    add_resolution_arguments,
    pixel_options,
    progress_bar,
    refuse_inputs,
    resolution_of,
)

HELP = "exact channel means and standard deviations"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("slides", nargs="*", metavar="SLIDE", help="a slide")
    parser.add_argument("--split", metavar="SPLIT.csv", help="use the slides of a saved split instead; see --image-dir")
    parser.add_argument("--part", default="train", choices=("train", "val", "test"), help="its part (default: train)")
    parser.add_argument("--image-dir", help="folder of the split's slides (default: the split file's own)")
    add_resolution_arguments(parser)
    add_pixel_arguments(parser)
    counted = parser.add_mutually_exclusive_group()
    counted.add_argument("--tissue-only", action="store_true", help="count only tissue")
    counted.add_argument("--crop", choices=("tissue", "pack"), help="count what a DataModule reads with this crop")
    parser.add_argument("--reduction", choices=("pooled", "per_image"), default="pooled", help="see the documentation")
    parser.add_argument(
        "--on-error", choices=("raise", "skip"), default="raise", help="skip slides that cannot be read, and name them"
    )
    parser.add_argument("--workers", type=int, default=0, help="worker processes (default: none)")
    parser.add_argument(
        "--share", action="store_true", help="share the work with other jobs of this same command; needs --output"
    )
    parser.add_argument("-o", "--output", help="JSON file to write, for WSIDataModule(stats=...)")
    parser.add_argument("--overwrite", action="store_true", help="replace a file that holds no statistics")
    add_output_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print the statistics, and save them if requested."""
    from contextlib import nullcontext

    from wsidata.stats.compute import channel_stats, process_pool

    if arguments.share and not arguments.output:
        raise ValueError("--share needs --output, the file that all jobs name.")
    if arguments.output:
        refuse_inputs(arguments.output, [arguments.split, *arguments.slides])
    if arguments.output and not arguments.overwrite:
        _refuse_to_replace(Path(arguments.output))
    pool = process_pool(arguments.workers) if arguments.workers else nullcontext(None)
    with pool as executor, progress_bar("reading slides", quiet=arguments.quiet) as progress:
        stats = channel_stats(
            _slides(arguments),
            reduction=arguments.reduction,
            tissue_only=arguments.tissue_only,
            crop=arguments.crop,
            on_error=arguments.on_error,
            executor=executor,
            share=f"{arguments.output}.jobs" if arguments.share else None,
            progress=progress,
            **pixel_options(arguments),
            **resolution_of(arguments),
        )
    if arguments.output:
        stats.save(arguments.output)
    if arguments.json:
        print(stats.to_json())
    else:
        print(f"mean  {', '.join(f'{value:.6f}' for value in stats.mean)}")
        print(f"std   {', '.join(f'{value:.6f}' for value in stats.std)}")
        print(f"of {stats.image_count} slides, {stats.count_px:,} pixels, {stats.reduction}")
    return 0


def _refuse_to_replace(output: Path) -> None:
    """Raise if a file exists and holds no channel statistics."""
    from wsidata.stats.result import ChannelStats, StatsError

    try:
        if output.is_file():
            ChannelStats.load(output)
    except StatsError as error:
        raise FileExistsError(
            f"'{output}' exists and holds no channel statistics. Name another file with --output, or pass --overwrite."
        ) from error


def _slides(arguments: argparse.Namespace) -> list[str]:
    """The slides given by name, or those of a split."""
    if bool(arguments.slides) == bool(arguments.split):
        raise ValueError("name slides, or pass --split=SPLIT.csv; one of the two.")
    if not arguments.split:
        return list(arguments.slides)
    from wsidata.remote.address import is_address
    from wsidata.splits.split_file import load_splits
    from wsidata.tables.find_slides import AddressFolder, ImageFolder, ImageLookupError

    saved = load_splits(arguments.split)
    where = arguments.image_dir or Path(arguments.split).parent
    folder = AddressFolder(str(where)) if is_address(where) else ImageFolder(Path(where).absolute())
    try:
        return [folder.find_text(name) for name in saved.loc[saved["split"] == arguments.part, "image_id"]]
    except ImageLookupError as error:
        raise ImageLookupError(f"{error}. Pass --image-dir, the folder of its slides.") from error
