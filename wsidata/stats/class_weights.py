"""Class weights inversely proportional to class frequency."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import torch
from torch import Tensor

from wsidata.tables.parts import SplitError
from wsidata.tables.targets import ONE_CLASS, Target


def class_weights(rows: pd.DataFrame, target: Target, class_names: Sequence[str]) -> Tensor:
    """Loss weights inversely proportional to class frequency.

    One class per slide: n / (K * n_c), scikit-learn's `class_weight="balanced"`, for `CrossEntropyLoss(weight=...)`.
    Several labels per slide: (n - n_k) / n_k, the negatives per positive, for `BCEWithLogitsLoss(pos_weight=...)`.

    Args:
        rows: Training rows of `LabelTable.frame`.
        target: Kind of the targets.
        class_names: The classes.

    Returns:
        (K,) float32.

    Raises:
        SplitError: if a class has no row, or the targets are numbers or masks.
    """
    if target in ONE_CLASS:
        counts = torch.bincount(torch.tensor(rows["label"].tolist(), dtype=torch.int64), minlength=len(class_names))
        weights = counts.sum() / (len(class_names) * counts.float())
    elif target == "multilabel":
        counts = torch.tensor(rows["target"].tolist(), dtype=torch.float32).reshape(-1, len(class_names)).sum(0)
        weights = (len(rows) - counts) / counts
    else:
        raise SplitError(f"targets of kind '{target}' have no class weights; only one class or several labels have.")
    empty = [name for name, count in zip(class_names, counts.tolist(), strict=True) if count == 0]
    if empty:
        raise SplitError(f"class {empty} has no training image, so its weight is unknown. Take it out of class_names.")
    return weights
