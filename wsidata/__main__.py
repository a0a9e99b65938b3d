"""The command line `wsidata info | outlines | qc | regions | split | stats | publish`."""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Sequence

from wsidata import __version__
from wsidata.cli import info, outlines, publish, qc, regions, split, stats
from wsidata.utils.flags import flags_of, say_in_flags
from wsidata.utils.installation import warn_of_other_distribution
from wsidata.utils.messages import show_warnings_in_lines

COMMANDS = {
    "info": info, "outlines": outlines, "qc": qc, "regions": regions, "split": split, "stats": stats,
    "publish": publish,
}  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: Arguments; None takes those of the process.

    Returns:
        0; 1 if a slide cannot be read or leaks; 2 for an error.
    """
    arguments = make_parser().parse_args(argv)
    try:
        with warnings.catch_warnings():
            show_warnings_in_lines()
            warn_of_other_distribution()  # whose own __init__ may have been imported
            return int(COMMANDS[arguments.command].run(arguments))
    except (ValueError, OSError, LookupError) as error:  # errors of this package and of files
        said = say_in_flags(str(error), flags_of(COMMANDS[arguments.command].add_arguments))
        print(f"wsidata {arguments.command}: {said}", file=sys.stderr)
        return 2


def make_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="wsidata",
        description="Slides: facts, outlines, quality, regions, splits, statistics, publishing.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        command.add_arguments(commands.add_parser(name, help=command.HELP, description=command.__doc__))
    return parser


if __name__ == "__main__":
    sys.exit(main())
