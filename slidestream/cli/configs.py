"""The command `slidestream configs`, which lists configurations of `fit`, and writes one out to edit."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "list the configurations for fit, or write one out"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("name", nargs="?", help="the configuration to write (default: list all)")
    parser.add_argument("-o", "--out", help="YAML file to write (default: NAME.yaml)")


def run(arguments: argparse.Namespace) -> int:
    """List, or write."""
    from slidestream.configs import config_path, config_titles

    if arguments.name is None:
        if arguments.out:
            raise ValueError("name the configuration to write: slidestream configs NAME -o FILE.")
        titles = config_titles()
        width = max(map(len, titles))
        print("\n".join(f"{name:<{width}}  {title}" for name, title in titles.items()))
        print("\nslidestream configs NAME writes one out; slidestream fit --config NAME trains with it.")
        return 0
    target = Path(arguments.out or f"{arguments.name}.yaml")
    text = config_path(arguments.name).read_text()
    try:
        with target.open("x") as file:
            file.write(text)
    except FileExistsError as error:
        raise FileExistsError(f"'{target}' exists: name another file with --out.") from error
    print(f"wrote {target}: edit it, then slidestream fit --config {target}")
    return 0
