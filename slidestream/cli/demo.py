"""The command `slidestream demo`, which trains on synthetic slides and shows what comes of it."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "train on synthetic slides, and show what comes of it, in minutes"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("--out", type=Path, default=Path("runs/demo"), help="folder for all of it (%(default)s)")


def run(arguments: argparse.Namespace) -> int:
    """Run the demonstration."""
    from slidestream.demo.run import run_demo

    run_demo(arguments.out)
    return 0
