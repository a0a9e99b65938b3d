"""The command line `slidestream fit | validate | test | predict | configs` and more."""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Sequence

from slidestream.cli import completion, configs, demo, features, fit, heatmap, predict, report, test, validate
from slidestream.cli.messages import cause_of, in_flags, is_foreseen, shortened
from wsidata.utils.messages import show_warnings_in_lines

COMMANDS = {
    "fit": fit,
    "validate": validate,
    "test": test,
    "predict": predict,
    "report": report,
    "heatmap": heatmap,
    "features": features,
    "configs": configs,
    "demo": demo,
    "completion": completion,
}

DESCRIPTION = "Train networks on whole-slide images and photos, and use them."
EPILOG = "`slidestream COMMAND --help` explains a command. Facts, splits and statistics of data: `wsidata`."


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: Arguments; None takes those of the process.

    Returns:
        0; 1 if something could not be read; 2 for an error, of which one line is printed.
    """
    given = list(sys.argv[1:] if argv is None else argv)
    arguments = make_parser().parse_args(given[:1] if given[:1] and given[0] in _PASSED_ON else given)
    arguments.rest, arguments.make_parser = given[1:], make_parser
    show_warnings_in_lines(lambda message: in_flags(message, arguments.command))
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # where users have classes of their own; behind all packages
    try:
        return int(COMMANDS[arguments.command].run(arguments))
    except KeyboardInterrupt:
        print(f"slidestream {arguments.command}: interrupted.", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 2
    except Exception as error:
        cause = cause_of(error)
        if not is_foreseen(cause) or os.environ.get("SLIDESTREAM_TRACEBACK"):
            traceback.print_exc()
        print(f"slidestream {arguments.command}: {in_flags(shortened(cause), arguments.command)}", file=sys.stderr)
        return 2


def make_parser() -> argparse.ArgumentParser:
    """The parser of all commands; arguments of those in `_PASSED_ON` are parsed by LightningCLI."""
    parser = argparse.ArgumentParser(prog="slidestream", description=DESCRIPTION, epilog=EPILOG)
    parser.add_argument("--version", action=_Versions, nargs=0, help="print the versions of all packages that matter")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        passed_on = name in _PASSED_ON
        added = commands.add_parser(name, help=command.HELP, description=command.__doc__, add_help=not passed_on)
        command.add_arguments(added)
    return parser


_PASSED_ON = ("fit", "validate", "test")


class _Versions(argparse.Action):
    """Prints the versions, which are looked up only then."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from slidestream.versions import describe_versions

        print(describe_versions())
        parser.exit()


if __name__ == "__main__":
    sys.exit(main())
