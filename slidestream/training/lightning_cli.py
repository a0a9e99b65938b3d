"""LightningCLI with a run folder, and a network whose number of outputs follows from the data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import CSVLogger
from torch.nn import CrossEntropyLoss

import streammodels
import wsidata
from slidestream.trained import TASK_OF_TARGET
from slidestream.training.epoch_lines import EpochLines
from slidestream.training.run_folder import RunFolder, default_folder, show_progress

_CLASS_WEIGHTS = "weigh the classes in the cross entropy inversely to how many training images they have"
SUBCOMMANDS = LightningCLI.subcommands()
TRAINER_DEFAULTS = {
    "num_sanity_val_steps": 0,
    "log_every_n_steps": 1,
    "enable_model_summary": False,
}


class RunCLI(LightningCLI):
    """One command of LightningCLI: fit, validate or test.

    Args:
        command: The command.
        arguments: What follows it on the command line.
    """

    def __init__(self, command: str, arguments: Sequence[str]) -> None:
        self.command = command
        for package, names in ((streammodels, streammodels.__all__), (wsidata, wsidata.__all__)):
            for name in names:  # imported classes can be named without their module
                getattr(package, name)
        super().__init__(
            LightningModule,
            LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            save_config_callback=None,  # the configuration is written into the run folder
            trainer_defaults=TRAINER_DEFAULTS,
            seed_everything_default=42,
            parser_kwargs={"prog": "slidestream", "exit_on_error": False, command: {"exit_on_error": False}},
            args=[command, *arguments],
        )

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]  # static there: all commands
        """The one command; parsers of the others would only take time."""
        return {self.command: SUBCOMMANDS[self.command]}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the run folder, and what chooses the best epoch."""
        parser.add_argument("--out", type=str | None, help="folder for all results (runs/<configuration>/<time>)")
        parser.add_argument("--monitor", default="val_loss", help="logged value that chooses the best epoch")
        parser.add_argument("--monitor_mode", default="min", help="min or max: which of its values is best")
        parser.add_argument("--class_weights", type=bool, default=False, help=_CLASS_WEIGHTS)
        for name in ("num_classes", "task"):
            parser.link_arguments(
                "data", f"model.init_args.{name}", compute_fn=_FOUND_IN_DATA[name], apply_on="instantiate"
            )

    def after_instantiate_classes(self) -> None:
        """Set the class weights of the loss, if they are asked for.

        Raises:
            ValueError: if the loss or the data module has none.
        """
        if not self._get(self.config, "class_weights"):
            return
        loss = getattr(self.model, "loss_fn", None)
        if not isinstance(loss, CrossEntropyLoss) or not hasattr(self.datamodule, "class_weights"):
            raise ValueError("--class_weights needs a network with a CrossEntropyLoss, and images of one class each.")
        loss.register_buffer("weight", self.datamodule.class_weights)

    def _add_instantiators(self) -> None:
        """Leave hyperparameters in checkpoints as they are in Python, the arguments of the network's class."""

    def _parse_ckpt_path(self) -> None:
        """Leave the configuration as it is: it says what the network is, and not the checkpoint."""

    @property
    def run(self) -> RunFolder:
        """The folder of this run."""
        configs = self._get(self.config, "config") or []
        return RunFolder(Path(self._get(self.config, "out") or default_folder(str(configs[0]) if configs else None)))

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """The Trainer, with a logger and checkpoints in the run folder, unless others are configured."""
        config, run = self._get(self.config_init, "trainer"), self.run
        fast = bool(config.get("fast_dev_run"))
        given = config.get("callbacks") or []
        own: list[Callback] = [] if show_progress() else [EpochLines()]
        keeps = self.command == "fit" and config.get("enable_checkpointing") is not False and not fast
        if keeps and not any(isinstance(callback, ModelCheckpoint) for callback in given):
            own.append(self._checkpoints(run))
        if config.get("logger") in (None, True):
            kwargs["logger"] = False if self.command != "fit" or fast else CSVLogger(run.path, name="logs")
        if config.get("default_root_dir") is None:
            kwargs["default_root_dir"] = str(run.path)
        if config.get("enable_progress_bar") is None:
            kwargs["enable_progress_bar"] = show_progress()
        return super().instantiate_trainer(callbacks=[*given, *own], **kwargs)

    def _checkpoints(self, run: RunFolder) -> ModelCheckpoint:
        """best.ckpt and last.ckpt."""
        validates = not hasattr(self.datamodule, "tables") or len(self.datamodule.tables["val"]) > 0
        return ModelCheckpoint(
            run.checkpoints,
            "best",
            monitor=self._get(self.config, "monitor") if validates else None,
            mode=self._get(self.config, "monitor_mode"),
            save_last=True,
            enable_version_counter=False,
        )


def _outputs(data: Any) -> Any:
    """Number of classes, or of numbers; the default of networks for data modules that do not say."""
    return getattr(data, "num_classes", 2)


def _task(data: Any) -> str | None:
    """The task that the targets of a data module are for; None leaves it to the loss."""
    return TASK_OF_TARGET.get(str(getattr(getattr(data, "labels", None), "target", None)))


_FOUND_IN_DATA = {"num_classes": _outputs, "task": _task}
