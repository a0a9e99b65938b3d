"""The command `slidestream test`, which computes the metrics of the test split and predicts it."""

from __future__ import annotations

import argparse

HELP = "metrics of the test split"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """None here: LightningCLI parses them."""


def run(arguments: argparse.Namespace) -> int:
    """Run LightningCLI."""
    from slidestream.training.command import run_command

    return run_command("test", arguments.rest)
