"""Messages about Python arguments, said in the flags of a command line."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable

_GIVEN = r"(?<![\w.\-])([a-z][a-z_0-9]+)="
_NAMED = r"(?<![\w.\-'\"/`])([a-z]+_[a-z_0-9]+)(?![\w=(\[.'\"/`]*[\w=(\['\"/`])"
_ARGUMENT = re.compile(f"{_GIVEN}|{_NAMED}")


def say_in_flags(message: str, flag_of: Callable[[str], str | None]) -> str:
    """A message about arguments, such as `image_size=`, with flags in their place.

    Args:
        message: What an error or a warning says.
        flag_of: Returns the flag of an argument, such as "--image-size"; None for one without a flag, which stays.
    """

    def flag(found: re.Match[str]) -> str:
        name = flag_of(found[1] or found[2])
        following = found.string[found.end() : found.end() + 1]
        has_value = found[1] and following and following not in " ,.;:)\n"
        return found[0] if name is None else name + ("=" if has_value else "")

    return _ARGUMENT.sub(flag, message)


def flags_of(add_arguments: Callable[[argparse.ArgumentParser], None]) -> Callable[[str], str | None]:
    """The flags of a command, as `say_in_flags` takes them.

    Args:
        add_arguments: Adds the arguments of the command to a parser.
    """
    parser = argparse.ArgumentParser(add_help=False)
    add_arguments(parser)
    there = {option for action in parser._actions for option in action.option_strings}

    def flag_of(name: str) -> str | None:
        flag = f"--{name.replace('_', '-')}"
        return flag if flag in there else None

    return flag_of
