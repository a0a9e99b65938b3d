"""The commands `fit`, `validate` and `test`, from the command line to the written results."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning import Trainer

from slidestream.configs import config_path
from slidestream.training.evaluate import describe_scores, evaluate
from slidestream.training.folds import fit_folds, take_folds
from slidestream.training.lightning_cli import RunCLI
from slidestream.training.noise import hush
from slidestream.training.whole_checkpoints import write_whole
from wsidata.utils.files import write_text


def run_command(command: str, arguments: Sequence[str]) -> int:
    """Run a command.

    Args:
        command: "fit", "validate" or "test".
        arguments: What follows it on the command line.

    Returns:
        0.

    Raises:
        FileExistsError: if the run folder holds another run.
    """
    hush()
    given, folds = take_folds(list(arguments)) if command == "fit" else (list(arguments), None)
    said, given = given, with_config_files(given)
    if folds is not None:
        return fit_folds(given, folds)
    started = time.monotonic()
    cli = _Run(command, with_config_of_run(command, given), said)
    if cli.trainer.is_global_zero and not getattr(cli.trainer, "fast_dev_run", False):
        kept = getattr(cli.trainer.checkpoint_callback, "best_model_path", "") if command == "fit" else ""
        best = Path(kept) if kept else None
        if command == "fit":
            cli.run.merge_metrics()
            cli.run.note(seconds=round(time.monotonic() - started, 1))
        if command != "validate":
            print(f"\n{describe_scores(evaluate(cli.trainer, cli.model, cli.datamodule, cli.run, best))}")
        if command == "fit":
            cli.run.finish()
            print(f"\n{cli.run.listing()}")
    return 0


class _Run(RunCLI):
    """RunCLI that prepares the run folder before the Trainer begins.

    Args:
        command: "fit", "validate" or "test".
        arguments: What follows it on the command line.
        said: The same as the user said it, to be kept.
    """

    def __init__(self, command: str, arguments: Sequence[str], said: Sequence[str]) -> None:
        self.said = said
        super().__init__(command, arguments)

    def before_test(self) -> None:
        """Refuse a folder of other results.

        Raises:
            FileExistsError: if there are any.
        """
        if self.trainer.is_global_zero and (self.run.path / "predictions.csv").exists():
            raise FileExistsError(f"'{self.run.path}' holds predictions already. Name another folder with --out.")

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """The Trainer, which writes checkpoints whole or not at all."""
        trainer = super().instantiate_trainer(**kwargs)
        write_whole(trainer)
        return trainer

    def before_fit(self) -> None:
        """Refuse a folder of another run; write the configuration."""
        config = self.config[self.command]
        if not self.trainer.is_global_zero or config.trainer.fast_dev_run:
            return
        run = self.run
        if config.ckpt_path is None and any(run.checkpoints.glob("*.ckpt")):
            raise FileExistsError(
                f"'{run.path}' holds a run already. Resume it with --ckpt_path last, or name another folder with --out."
            )
        run.path.mkdir(parents=True, exist_ok=True)
        kept = config.clone()
        kept.out, kept.ckpt_path = str(run.path), None  # to resume is the choice of a command, not of the settings
        settings = self._parser(self.command).dump(kept, skip_none=False, format="yaml")
        write_text(run.path / "config.yaml", settings)
        run.start([self.command, *self.said])


def with_config_files(arguments: Sequence[str]) -> list[str]:
    """Arguments with the file of each configuration that is named, and is no file here.

    Raises:
        ValueError: for a name of neither.
    """
    found, taken = list(arguments), False
    for number, one in enumerate(found):
        name = one.removeprefix("--config=")
        if (taken or name != one) and not Path(name).is_file():  # a folder of that name is the slides
            found[number] = one.removesuffix(name) + str(config_path(name))
        taken = one in ("--config", "-c")
    return found


def with_config_of_run(command: str, arguments: Sequence[str]) -> list[str]:
    """Arguments of validate and test, with the configuration of the run whose checkpoint is named, if none is.

    Results go into a folder of their own in that run, unless --out is there.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for flags in (["--ckpt_path"], ["--config", "-c"], ["--out"]):
        parser.add_argument(*flags)
    given, _ = parser.parse_known_args(arguments)
    if command == "fit" or given.ckpt_path is None:
        return list(arguments)
    run = Path(given.ckpt_path).parent.parent
    config = [] if given.config or not (run / "config.yaml").is_file() else ["--config", str(run / "config.yaml")]
    out = [] if given.out or not config else ["--out", str(run / command / time.strftime("%Y-%m-%d_%H-%M-%S"))]
    return [*config, *arguments, *out]
