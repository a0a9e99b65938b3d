"""A line for each epoch in the output of a run that nobody watches."""

from __future__ import annotations

import time

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback


class EpochLines(Callback):
    """Prints the logged metrics after each epoch, where a progress bar would fill a log file."""

    def __init__(self) -> None:
        self._started = time.monotonic()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the time."""
        self._started = time.monotonic()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print."""
        if not trainer.is_global_zero:
            return
        of = "" if trainer.max_epochs in (None, -1) else f"/{trainer.max_epochs}"
        values = ", ".join(f"{name} {float(value):.4g}" for name, value in sorted(trainer.callback_metrics.items()))
        seconds = time.monotonic() - self._started
        print(f"epoch {trainer.current_epoch + 1}{of} ({seconds:.0f} s): {values}", flush=True)
