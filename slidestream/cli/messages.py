"""Messages of the command line, which speak of flags and take one line each."""

from __future__ import annotations

import re
import sys
import traceback
import warnings
from typing import TextIO

OURS = ("slidestream", "wsidata", "streammodels", "jsonargparse")
"""Packages whose errors say what is wrong and what to do, so that no traceback is needed."""

_ARGUMENT = re.compile(r"(?<![\w.\-])([a-z][a-z_0-9]+)=")


def in_flags(message: str, command: str) -> str:
    """A message about Python arguments, such as `image_size=`, with the flags of a command in their place.

    Args:
        message: What an error or warning says.
        command: "fit", "validate" or "test", whose flags have groups (`--data.image_size`); or another command
            (`--image-size`).
    """
    groups = _groups() if command in ("fit", "validate", "test") else None

    def flag(found: re.Match[str]) -> str:
        name = found[1]
        if groups is None:
            return f"--{name.replace('_', '-')}{_between(found)}"
        return f"--{groups[name]}.{name}{_between(found)}" if name in groups else found[0]

    return _ARGUMENT.sub(flag, message)


def _between(found: re.Match[str]) -> str:
    """What stands between a flag and its value; nothing where the argument is only named."""
    following = found.string[found.end() : found.end() + 1]
    return "" if not following or following in " ,.;:)\n" else "="


def _groups() -> dict[str, str]:
    """The group of each argument of our classes: "data" or "model"."""
    import inspect

    from streammodels import StreamingClassifier, StreamingResNet
    from wsidata import HubDataModule, ImageFolderDataModule, WSIDataModule

    models, data = (StreamingResNet, StreamingClassifier), (WSIDataModule, ImageFolderDataModule, HubDataModule)
    groups = {name: "model" for kind in models for name in inspect.signature(kind).parameters}
    return groups | {name: "data" for kind in data for name in inspect.signature(kind).parameters}


def is_foreseen(error: BaseException) -> bool:
    """Whether an error was raised by packages whose messages are enough; of others, users need the traceback."""
    from lightning.fabric.utilities.exceptions import MisconfigurationException

    if isinstance(error, (MisconfigurationException, OSError)):
        return True
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    raised_in = str(frames[-1].f_globals.get("__name__", "")) if frames else ""
    return isinstance(error, (ValueError, LookupError, RuntimeError)) and raised_in.partition(".")[0] in OURS


def show_warnings(command: str) -> None:
    """Print warnings from here on in one line each, without their place in the source."""

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        print(f"warning: {in_flags(str(message), command)}", file=sys.stderr)

    warnings.showwarning = show
