"""The command `slidestream fit`, which trains a network and evaluates it."""

from __future__ import annotations

import argparse

HELP = "train a network"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """None here: LightningCLI parses them."""


def run(arguments: argparse.Namespace) -> int:
    """Run LightningCLI."""
    from slidestream.training.command import run_command

    return run_command("fit", arguments.rest)
