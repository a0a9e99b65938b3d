"""The command `slidestream report RUN`, which writes one HTML file about a run to look at and to send."""

from __future__ import annotations

import argparse

HELP = "write report.html: curves, scores with intervals, figures, mistakes, leaks"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("run", metavar="RUN", help="folder of a run, or of folds; or a table such as predictions.csv")
    parser.add_argument("--out", metavar="FILE.html", help="file to write (default: report.html in the folder)")
    parser.add_argument("--title", help="heading (default: name of the folder)")
    parser.add_argument(
        "--unit", choices=("slides", "photos", "cases", "images"), help="what the images are (default: as run)"
    )


def run(arguments: argparse.Namespace) -> int:
    """Write the report and print where it is."""
    from wsidata.evaluation import write_report

    print(write_report(arguments.run, out=arguments.out, title=arguments.title, unit=arguments.unit))
    return 0
