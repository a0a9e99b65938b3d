"""Messages of the command line, which speak of flags and take one line each."""

from __future__ import annotations

import re
import traceback
from importlib import import_module
from itertools import pairwise

from wsidata.utils.flags import flags_of, say_in_flags

OURS = ("slidestream", "wsidata", "streammodels", "jsonargparse")
"""Packages whose errors say what is wrong and what to do, so that no traceback is needed."""

_REASON = re.compile(r"\s*(- (?!Expected a <class 'NoneType'>)|Parser key|Option '.*' is not accepted)")
_ALLOWED = re.compile(r"allow_changed=\[([^\]]*)\]")


def in_flags(message: str, command: str) -> str:
    """A message about Python arguments, such as `image_size=`, with the flags of a command in their place.

    Args:
        message: What an error or warning says.
        command: "fit", "validate" or "test", whose flags have groups (`--data.image_size`); or another command
            (`--image-size`).
    """
    if command in ("fit", "validate", "test"):
        groups, message = argument_groups(), re.sub(r"=None\b", "=null", message)  # as YAML says it
        return say_in_flags(message, lambda name: f"--{groups[name]}.{name}" if name in groups else None)
    message = _ALLOWED.sub(lambda found: f"--allow-changed {re.sub('[^a-z_ ]', '', found[1])}", message)
    said = say_in_flags(message, flags_of(import_module(f"slidestream.cli.{command}").add_arguments))
    return re.sub(r"(--[a-z-]+)=True\b", r"\1", said)


def argument_groups() -> dict[str, str]:
    """The group of each argument of our data modules and networks, "data" or "model"."""
    import inspect

    from streammodels import MILClassifier, StreamingClassifier, StreamingResNet
    from wsidata import FeatureBagDataModule, HubDataModule, ImageFolderDataModule, TileDataModule, WSIDataModule

    models = (MILClassifier, StreamingResNet, StreamingClassifier)
    data = (WSIDataModule, ImageFolderDataModule, HubDataModule, TileDataModule, FeatureBagDataModule)
    groups = {name: "model" for kind in models for name in inspect.signature(kind).parameters}
    return groups | {name: "data" for kind in data for name in inspect.signature(kind).parameters}


def cause_of(error: BaseException) -> BaseException:
    """What one of our packages raised, where jsonargparse has wrapped it while it made a network or data module."""
    cause: BaseException | None = error
    while cause is not None and _raised_in(cause) == "jsonargparse":
        cause = cause.__cause__ or cause.__context__
    return error if cause is None or _raised_in(cause) not in OURS else cause


def shortened(error: BaseException) -> str:
    """The message of an error; of jsonargparse's long ones, the reasons."""
    message = str(error).strip()
    if "could not find the monitored key" in message:
        return f"{message} Name one of these with --monitor, and --monitor_mode max where more is better."
    if "\n" not in message or _raised_in(error) != "jsonargparse":
        return message
    reasons = []
    for line, after in pairwise([*message.splitlines(), ""]):
        if _REASON.match(line):
            is_explained_below = line.endswith(":") and not _REASON.match(after)
            reasons.append(line.strip(" -") + (f" {after.strip()}" if is_explained_below else ""))
    if any(reason.startswith("Problem") for reason in reasons):  # with a class: other types were not meant
        reasons = [reason for reason in reasons if not reason.startswith("Expected a <class")]
    return " ".join(dict.fromkeys(reasons)) or message


def is_foreseen(error: BaseException) -> bool:
    """Whether an error was raised by packages whose messages are enough; of others, users need the traceback."""
    from argparse import ArgumentError

    from lightning.fabric.utilities.exceptions import MisconfigurationException

    if isinstance(error, (ArgumentError, MisconfigurationException, OSError)):
        return True
    return isinstance(error, (ValueError, LookupError, RuntimeError)) and _raised_in(error) in OURS


def _raised_in(error: BaseException) -> str:
    """The package whose code raised an error."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return str(frames[-1].f_globals.get("__name__", "")).partition(".")[0] if frames else ""
