"""The command `wsidata qc TABLE`, which measures tissue, focus, artifacts and colors of slides."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from wsidata.cli.arguments import add_pixel_arguments, pixel_options, print_json, progress_bar, refuse_inputs
from wsidata.utils.flags import flags_of, say_in_flags

HELP = "tissue, focus, pen, folds, bubbles, colors and stains of slides, as CSV and as a report"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    add = parser.add_argument
    add("table", help="CSV or Parquet table of slides, or a folder of them")
    add("--image-dir", help="folder of the slides (default: the table's own)")
    add("--image-column", default="image", help="column of slide names (default: %(default)s)")
    add_pixel_arguments(parser)
    add(
        "-o", "--output", metavar="QC.csv", help="table to write, a row a slide; a run that was stopped goes on with it"
    )
    add("--report", metavar="QC.html", help="report to write, with thumbnails, the worst first")
    add("--max-thumbnails", type=int, default=60, help="slides shown in the report (default: 60)")
    add("--workers", type=int, default=0, help="worker processes (default: none)")
    add("--json", action="store_true", help="print JSON")
    add("--quiet", action="store_true", help="no progress bar")


def run(arguments: argparse.Namespace) -> int:
    """Measure, write and print; 1 if a slide cannot be read."""
    from contextlib import nullcontext

    from wsidata.jobs.pools import process_pool
    from wsidata.quality.report import write_quality_report
    from wsidata.quality.table import quality_table
    from wsidata.slides.options import SlideOptions
    from wsidata.tables.label_table import read_table

    if not (arguments.output or arguments.report or arguments.json):
        raise ValueError("nothing to write was named. Pass --output QC.csv, --report QC.html or --json.")
    table = read_table(arguments.table, arguments.image_dir, image_column=arguments.image_column, label_column=None)
    paths = dict(zip(table.frame["image_id"], table.frame["path"], strict=True))
    for output in (arguments.output, arguments.report):
        if output:
            refuse_inputs(output, [arguments.table, *paths.values()])
    options = SlideOptions(**pixel_options(arguments))
    with (
        process_pool(arguments.workers) if arguments.workers else nullcontext(None) as executor,
        progress_bar("measuring", quiet=arguments.quiet) as progress,
    ):
        found = quality_table(paths, out=arguments.output, options=options, executor=executor, progress=progress)
    if arguments.report:
        name = Path(arguments.table).stem
        write_quality_report(
            found,
            arguments.report,
            title=f"Quality of {name}",
            max_thumbnails=arguments.max_thumbnails,
            options=options,
        )
    failed = found[found["error"] != ""]
    for row in failed.itertuples():
        print(f"{row.path}: {say_in_flags(str(row.error), flags_of(add_arguments))}", file=sys.stderr)
    if arguments.json:
        rows = found.astype(object).where(found.notna(), None)
        print_json(rows.to_dict("records"))
    else:
        print(
            f"{len(found) - len(failed)} of {len(found)} slides measured, {found['tissue_mm2'].sum():.1f} mm2 of tissue"
        )
    return int(len(failed) > 0)
