"""Notes and warnings of Lightning that say nothing new to users of the command line."""

from __future__ import annotations

import logging
import warnings

EXPECTED = (
    "Found .* in eval mode",  # frozen batch normalization
    "Experiment logs directory",
    "Checkpoint directory",
    ".*treespec, LeafSpec",
    "Trying to infer the `batch_size`",
    ".*does not have many workers",
    "The number of training batches",
    "LightningCLI's args parameter is intended",
    "You defined a `validation_step` but have no `val_dataloader`",
    ".*tensorboardX.*",
    "The dirpath has changed",
    "Be aware that when using `ckpt_path`",
    "(?s).*JsonargparseDeprecationWarning",
)


def hush() -> None:
    """Silence them, in this process."""
    for message in EXPECTED:
        warnings.filterwarnings("ignore", message)
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
