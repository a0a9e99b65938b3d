"""The command `wsidata publish TABLE`, which exports preprocessed images to a folder or the Hub."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wsidata.cli.arguments import (
    add_output_arguments,
    add_resolution_arguments,
    add_split_arguments,
    add_table_arguments,
    print_json,
    resolution_of,
    table_options,
)
from wsidata.formats.resolution import MEASURES

if TYPE_CHECKING:
    from wsidata.datamodules.base import SplitDataModule

HELP = "export a split to a folder, or publish it on the Hugging Face Hub"
_FORMATS = ("png", "jpeg", "tiff", "tiff-jpeg", "original")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    where = parser.add_argument_group("destination (at least one)")
    where.add_argument("--folder", help="write the export here (default with --repo: published/REPO)")
    where.add_argument("--repo", metavar="NAME/DATA", help="publish to this dataset; private unless --public")
    where.add_argument("--public", action="store_true", help="make the dataset public")
    where.add_argument("--into-private", action="store_true", help="with --public: even if it exists and is private")
    where.add_argument("--revision", help="branch of the dataset (default: main)")
    where.add_argument("--create-pr", action="store_true", help="open a pull request")
    add_table_arguments(parser)
    parser.add_argument("--photos", action="store_true", help="the table is of photos, not of slides")
    add_resolution_arguments(parser, required=False)
    parser.add_argument("--image-size", type=int, help="crop or pad to squares of this side (default: keep sizes)")
    parser.add_argument("--mpp-override", type=float, help="um per pixel of level 0, instead of the files' own")
    parser.add_argument("--crop", choices=("tissue", "pack"), help="crop slides to their tissue, or pack it")
    parser.add_argument("--lazy", action="store_true", help="slides too large for memory, as pyramids")
    split = parser.add_argument_group("split")
    split.add_argument("--split", metavar="SPLIT.csv", help="a split saved by `wsidata split`")
    add_split_arguments(split)
    how = parser.add_argument_group("export")
    how.add_argument("--layout", choices=("files", "parquet"), help="image files, or shards (default: by size)")
    how.add_argument("--format", choices=_FORMATS, help="format of the images (default: lossless)")
    how.add_argument("--quality", type=int, help="quality of JPEG (default: 90)")
    how.add_argument("--opaque-ids", action="store_true", help="number images instead of naming them")
    how.add_argument(
        "--keep-names", nargs="+", default=[], choices=("group", "site", "case"), help="do not number them"
    )
    how.add_argument("--license", help="license identifier of the Hub, such as cc-by-4.0")
    how.add_argument("--title", help="title of the dataset")
    how.add_argument("--description", help="a paragraph for the card")
    how.add_argument("--no-stats", action="store_true", help="do not compute channel statistics")
    how.add_argument("--share", action="store_true", help="share the work with other jobs of this same command")
    how.add_argument("--workers", type=int, default=0, help="worker processes (default: threads)")
    add_output_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Export, and upload if requested."""
    from contextlib import nullcontext

    from wsidata.hub.card import CardText
    from wsidata.hub.client import HubError
    from wsidata.stats.compute import process_pool

    if arguments.repo is None and arguments.folder is None:
        raise ValueError("say where to: --folder FOLDER, or --repo NAME/DATA.")
    if arguments.share and arguments.repo is not None:
        raise ValueError("--share is for --folder alone: let the jobs export, and then publish the folder once.")
    card = CardText(arguments.license, arguments.title, arguments.description)
    with process_pool(arguments.workers) if arguments.workers else nullcontext(None) as executor:
        options = {
            "layout": arguments.layout,
            "image_format": arguments.format,
            "quality": arguments.quality,
            "opaque_ids": arguments.opaque_ids,
            "keep_names": arguments.keep_names,
            "card": card,
            "stats": not arguments.no_stats,
            "executor": executor,
            "share": arguments.share,
            "quiet": arguments.quiet,
            "say": partial(print, file=sys.stderr) if arguments.json else print,
        }
        try:
            answer = _publish(data_module(arguments), arguments, options)
        except HubError as error:
            print(f"wsidata publish: {error}", file=sys.stderr)
            return 2
    if arguments.json:
        print_json(answer)
    return 0


def _publish(dm: SplitDataModule, arguments: argparse.Namespace, options: dict[str, Any]) -> dict[str, Any]:
    """Export or publish; the result as plain values."""
    from wsidata.hub.export.writer import export
    from wsidata.hub.publish import publish

    if arguments.repo is None:
        found = export(dm, arguments.folder, **options)
        return {
            "folder": str(Path(arguments.folder)),
            "digest": found.digest,
            "images": found.image_count,
            "bytes": found.image_bytes,
            "layout": found.layout,
        }
    published = publish(
        dm,
        arguments.repo,
        not arguments.public,
        folder=arguments.folder,
        revision=arguments.revision,
        create_pr=arguments.create_pr,
        into_private=arguments.into_private,
        **options,
    )
    return asdict(published)


def data_module(arguments: argparse.Namespace) -> SplitDataModule:
    """The data module that the arguments describe.

    Raises:
        ValueError: for options of slides with --photos, or slides without a resolution.
    """
    from wsidata.datamodules.image_folder import ImageFolderDataModule
    from wsidata.datamodules.wsi import WSIDataModule

    names = ("split", "split_column", "test_prefix", "val_fraction", "test_fraction", "seed", "image_size")
    options = {**table_options(arguments), **{name: getattr(arguments, name) for name in names}, "batch_size": 1}
    resolution = resolution_of(arguments)
    if arguments.photos:
        for_slides = ("crop", "lazy", "mpp_override", "case_column")
        of_slides = [*resolution, *(name for name in for_slides if getattr(arguments, name))]
        if of_slides:
            raise ValueError(f"--{of_slides[0].replace('_', '-')} is for slides; leave it out with --photos.")
        del options["case_column"]
        return ImageFolderDataModule(arguments.table, options.pop("image_dir"), **options)
    if not resolution:
        known = ", ".join(f"--{name.replace('_', '-')}" for name in MEASURES)
        raise ValueError(f"say at which resolution slides are read: {known}. For photos, pass --photos.")
    return WSIDataModule(
        arguments.table,
        options.pop("image_dir"),
        mpp_override=arguments.mpp_override,
        crop=arguments.crop,
        lazy=arguments.lazy,
        **resolution,
        **options,
    )
