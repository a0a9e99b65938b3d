"""Predictions and scores of a run on its validation and test images."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from lightning import LightningModule, Trainer

from slidestream.training.run_folder import FILES, show_progress
from wsidata import SplitDataModule
from wsidata.evaluation import prediction_table, save_table, scores_by_split, summarize


def evaluate(
    trainer: Trainer, model: LightningModule, data: Any, out: Path, checkpoint: Path | None
) -> dict[str, pd.DataFrame]:
    """Predict the validation and test images, and write predictions.csv, scores.csv, split.csv and leaks.csv.

    Args:
        trainer: The Trainer of the run, whose device and precision are used.
        model: The network.
        data: The data module of the run; of others than this project's nothing is predicted.
        out: The run folder.
        checkpoint: The weights to take; None: those that the network has.

    Returns:
        "predictions" and "scores"; empty if nothing was predicted.
    """
    if not isinstance(data, SplitDataModule):
        return {}
    data.save_split(out / "split.csv")
    if data.leaks != "off":
        save_table(data.check_leaks().frame, out / "leaks.csv")
    rows = pd.concat([data.tables["val"], data.tables["test"]], ignore_index=True)
    if rows.empty or data.labels.target != "class":
        return {}
    if checkpoint is not None and checkpoint.is_file():
        model.load_state_dict(torch.load(checkpoint, map_location="cpu", weights_only=True)["state_dict"])
    alone = Trainer(
        devices=1, accelerator=_accelerator(trainer), precision=trainer.precision, logger=False,
        enable_checkpointing=False, enable_progress_bar=show_progress(), default_root_dir=out,
    )  # fmt: skip
    batches: Any = alone.predict(model, reading(data, rows))
    predictions = prediction_table(rows, torch.cat(batches), data.class_names)
    scores = scores_by_split(predictions, ("accuracy", "balanced_accuracy", "auroc"))
    save_table(predictions, out / "predictions.csv")
    save_table(scores, out / "scores.csv")
    return {"predictions": predictions, "scores": scores}


def reading(data: SplitDataModule, rows: pd.DataFrame) -> SplitDataModule:
    """A data module of the same images, whose rows to predict are these; they are not checked again."""
    other = copy.copy(data)
    other.__dict__["tables"] = {**data.tables, "predict": rows}
    other.datasets = {**data.datasets, "predict": other.make_dataset("predict")}
    return other


def summary(tables: dict[str, pd.DataFrame], out: Path) -> str:
    """The scores, and the files that were written, as text."""
    return summarize(tables["scores"], out, FILES)


def _accelerator(trainer: Trainer) -> str:
    return {"cuda": "gpu"}.get(trainer.strategy.root_device.type, trainer.strategy.root_device.type)
