"""Checks the shell commands of a document, by the parsers that would parse them."""

import re
import shlex
import tomllib
from argparse import ArgumentError
from collections.abc import Iterator
from pathlib import Path

from places import ROOT

import slidestream.__main__
import wsidata.__main__
from slidestream.training.command import with_config_files
from slidestream.training.folds import take_folds
from slidestream.training.lightning_cli import RunCLI

BLOCK = re.compile(
    r"(?:^<!-- (?P<note>[^\n]*) -->\n)?^```(?P<language>\w+)\n(?P<text>.*?)^```", re.DOTALL | re.MULTILINE
)
"""A block of code, and the comment before it: `file: NAME` writes it to that file, `not run: REASON` excuses programs
that are not of this project."""

_EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]


class FitParser(RunCLI):
    """The parser of `slidestream fit`; nothing is made of what it has parsed."""

    def __init__(self) -> None:
        super().__init__("fit", ["--model=StreamingResNet", "--data=WSIDataModule", "--data.table=labels.csv"])

    def instantiate_classes(self) -> None:
        """Make nothing."""

    def after_instantiate_classes(self) -> None:
        """Nothing is there."""

    def _run_subcommand(self, subcommand: str) -> None:
        """Run nothing."""

    def check(self, arguments: list[str]) -> None:
        """Parse what follows `slidestream fit`.

        Raises:
            ArgumentError: if it is wrong.
        """
        others, _ = take_folds(arguments)
        self.parser.parse_args(["fit", *with_config_files(others)])


def check_commands(document: str, fit: FitParser) -> int:
    """Write the files of a document to the working folder, and check its commands; returns how many.

    Raises:
        AssertionError: for a command that is wrong, or unknown and not excused.
    """
    checked = 0
    for block in BLOCK.finditer((ROOT / document).read_text()):
        notes = dict(one.split(": ", 1) for one in (block["note"] or "").split("; ") if ": " in one)
        if "file" in notes:
            Path(notes["file"]).write_text(block["text"])
        if block["language"] != "bash":
            continue
        for words in commands(block["text"]):
            why_wrong = _check(words, fit)
            assert why_wrong is None or notes.get("not run"), f"{document}: `{shlex.join(words)}`: {why_wrong}"
            checked += 1
    return checked


def commands(text: str) -> Iterator[list[str]]:
    """The commands of a shell script, without settings of variables, redirections, and srun."""
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.split(re.sub(r"\$\w+", "0", line), comments=True)
        while words and (words[0] == "srun" or re.match(r"\w+=", words[0])):
            words.pop(0)
        if words:
            yield words[: next((i for i, word in enumerate(words) if word in (">", ">>", "|")), None)]


def _check(words: list[str], fit: FitParser) -> str | None:
    """What is wrong with a command; None if nothing is.

    Raises:
        AssertionError: if a command of this project is wrong.
    """
    program, *arguments = words
    if program in ("slidestream", "wsidata"):
        try:
            _parse(program, arguments, fit)
        except (ArgumentError, SystemExit, ValueError) as error:
            raise AssertionError(f"`{shlex.join(words)}`: {error}") from error
        return None
    if program == "make":
        return None if f"\n{arguments[0]}:" in (ROOT / "Makefile").read_text() else "is no target"
    if program == "pip" and arguments[0] == "install" and arguments[-1].startswith("slidestream"):
        extras = re.findall(r"[\w-]+", arguments[-1].removeprefix("slidestream"))
        return None if set(extras) <= set(_EXTRAS) else "is no extra"
    return "is not checked: say in the page why, <!-- not run: REASON -->"


def _parse(program: str, arguments: list[str], fit: FitParser) -> None:
    if program == "slidestream" and arguments[0] == "fit":
        return fit.check(arguments[1:])
    if program == "wsidata":
        wsidata.__main__.make_parser().parse_args(arguments)
    elif slidestream.__main__.make_parser().parse_args(arguments).command == "configs":
        assert slidestream.__main__.main(arguments) == 0  # what it writes is used by commands after it
    return None
