"""The command `slidestream completion SHELL`, which prints what completes commands in a shell."""

from __future__ import annotations

import argparse
from inspect import signature
from typing import Any

HELP = "print the completion script of a shell"
_SHELLS = ("bash", "zsh", "tcsh")
_OF_TRAINING = ("--config", "--out", "--ckpt_path", "--monitor", "--monitor_mode", "--class_weights", "--print_config")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("shell", choices=_SHELLS, help="bash: slidestream completion bash >> ~/.bashrc")


def run(arguments: argparse.Namespace) -> int:
    """Print the script."""
    import shtab

    parser: argparse.ArgumentParser = arguments.make_parser()
    commands: Any = next(action for action in parser._actions if action.dest == "command")
    for name in ("fit", "validate", "test"):
        for flag in (*_OF_TRAINING, *_flags(), *(("--folds", "--fold") if name == "fit" else ())):
            commands.choices[name].add_argument(flag, nargs="?")
    print(shtab.complete(parser, arguments.shell))
    return 0


def _flags() -> list[str]:
    """Flags of the Trainer, and of our data modules and networks."""
    from lightning import Trainer

    from slidestream.cli.messages import argument_groups

    trainer = [f"--trainer.{name}" for name in signature(Trainer).parameters]
    return [*trainer, *(f"--{group}.{name}" for name, group in argument_groups().items())]
