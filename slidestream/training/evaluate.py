"""Predictions, scores and report of a run, of its validation and test images."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn

from slidestream.heatmaps import HeatmapOptions, draw_heatmaps
from slidestream.trained import TASK_OF_TARGET, Trained
from slidestream.training.run_folder import RunFolder, show_progress
from streammodels import StreamingClassifier
from wsidata import SplitDataModule, TileDataModule
from wsidata.evaluation import (
    PredictionWriter,
    mistakes,
    read_predictions,
    save_table,
    scores_with_intervals,
    write_report,
)
from wsidata.evaluation.predictions import by_split
from wsidata.tables.label_table import by_case
from wsidata.tables.targets import ONE_CLASS

MAIN_SCORES = (
    "c_index",
    "quadratic_kappa",
    "accuracy",
    "balanced_accuracy",
    "label_accuracy",
    "auroc",
    "mae",
    "rmse",
    "r2",
)
"""Those that are printed; scores.csv and the report have all."""

MISTAKES = 6
"""How many of each split get a heat map."""


def evaluate(
    trainer: Trainer, model: LightningModule, data: Any, run: RunFolder, checkpoint: Path | None
) -> pd.DataFrame:
    """Predict the validation and test images; write predictions.csv, scores.csv, split.csv, leaks.csv and report.html.

    Args:
        trainer: The Trainer of the run, whose device and precision are used.
        model: The network.
        data: The data module of the run; of others than this project's nothing is predicted.
        run: The run folder.
        checkpoint: The weights to take; None: those that the network has.

    Returns:
        The scores (see `wsidata.evaluation.scores_with_intervals`); empty if nothing was predicted.
    """
    scores = pd.DataFrame()
    if isinstance(data, SplitDataModule):
        data.save_split(run.path / "split.csv")
        if data.leak_report is not None:
            save_table(data.leak_report.frame, run.path / "leaks.csv")
        run.note(task=TASK_OF_TARGET.get(data.target, data.target), **_described(data))
        rows = pd.concat([data.tables["val"], data.tables["test"]], ignore_index=True)
        of_tiles = isinstance(data, TileDataModule) and not data.bags
        if len(rows) and data.target in TASK_OF_TARGET:
            if checkpoint is not None and checkpoint.is_file():
                content = torch.load(checkpoint, map_location="cpu", weights_only=True)
                model.load_state_dict(content["state_dict"])
            _predict(trainer, model, _reading(data, rows), run.path / "predictions.csv")
            predictions = read_predictions(run.path / "predictions.csv")
            if "label" in predictions:  # annotations label tiles, and no slides
                scores = scores_with_intervals(predictions, groups=_groups(data))
                save_table(scores, run.path / "scores.csv")
            if data.target in ONE_CLASS and not data.case_geometry and not of_tiles:
                _draw_mistakes(model, data, run, checkpoint)
    write_report(run.path)
    return scores


def describe_scores(scores: pd.DataFrame) -> str:
    """The main scores of each split with their intervals, as text."""
    if scores.empty:
        return "  nothing was predicted: slidestream predict does, or trainer.predict"
    lines = []
    for split, part in scores.groupby("split", sort=False):
        lines.append(f"  {split}, {part['images'].iloc[0]} images (95 % interval)")
        for row in main_scores(part).to_dict("records"):
            name = f"{row['score'].replace('_', ' ')} {row['target']}".strip()
            value = "undefined" if pd.isna(row["value"]) else f"{row['value']:.3f}"
            interval = "" if pd.isna(row["low"]) else f"   {row['low']:.3f} to {row['high']:.3f}"
            note = f"   ({row['note']})" if row["note"] else ""
            lines.append(f"    {name:<20} {value}{interval}{note}")
    return "\n".join(lines)


def main_scores(scores: pd.DataFrame) -> pd.DataFrame:
    """Those of `MAIN_SCORES`: of all classes or labels together, or of each number where that is all there is."""
    main = scores[scores["score"].isin(MAIN_SCORES)]
    return main if (main["target"] != "").all() else main[main["target"] == ""]


def _predict(trainer: Trainer, model: LightningModule, data: SplitDataModule, path: Path) -> None:
    """Write predictions on one device: several would count some images twice."""
    device = trainer.strategy.root_device.type
    alone = Trainer(
        devices=1, accelerator={"cuda": "gpu"}.get(device, device), precision=trainer.precision, logger=False,
        enable_checkpointing=False, enable_progress_bar=show_progress(), default_root_dir=path.parent,
        callbacks=PredictionWriter(path, overwrite=True, class_names=data.class_names),
    )  # fmt: skip
    alone.predict(model, datamodule=data, return_predictions=False)


def _draw_mistakes(model: LightningModule, data: SplitDataModule, run: RunFolder, checkpoint: Path | None) -> None:
    """Draw heat maps of the most confident mistakes of each split, for the report, if the network has such maps."""
    if not isinstance(model, StreamingClassifier):
        return
    wrong = [mistakes(part).head(MISTAKES) for _, part in by_split(read_predictions(run.path / "predictions.csv"))]
    if not sum(map(len, wrong)):
        return
    rows = pd.concat(wrong)
    trained = Trained(model.eval(), data.class_names, data.state_dict(), checkpoint or run.path)
    options = HeatmapOptions(picture_only=True, existing="replace")
    try:
        draw_heatmaps(trained, list(rows["path"]), run.path / "heatmaps", options, names=list(rows["image"]))
    except ValueError as error:  # no global pooling, or a transform that no map can be drawn through
        rank_zero_warn(f"no heat maps of mistakes are drawn: {error}")


def _reading(data: SplitDataModule, rows: pd.DataFrame) -> SplitDataModule:
    """A data module of the same images, whose rows to predict are these; they are not checked again."""
    other = copy.copy(data)
    other.__dict__["tables"] = {**data.tables, "predict": rows}
    other.datasets = {**data.datasets, "predict": other.make_dataset("predict")}
    return other


def _groups(data: SplitDataModule) -> dict[str, str] | None:
    """Patient of each image, if the table has patients."""
    frame = by_case(data.labels.frame)
    return dict(frame[["image_id", "group"]].to_numpy()) if (frame["group"] != "").any() else None


def _described(data: SplitDataModule) -> dict[str, Any]:
    """What the images are called, and at which resolution they are read."""
    geometry = data.geometry()
    resolution = geometry.get("resolution") or {}
    text = ", ".join(f"{name}={value}" for name, value in resolution.items())
    times = {"time_unit": data.arguments.get("time_unit")} if data.target == "survival" else {}
    unit = "cases" if "cases" in geometry else geometry.get("kind", "images")
    return {**times, "unit": unit, **({"resolution": text} if text else {})}
