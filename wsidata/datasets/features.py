"""Dataset of bags, the features of the tiles of one slide each."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from wsidata.datasets.epochs import TableDataset, persistent
from wsidata.tiles.features import read_features


class FeatureBagDataset(TableDataset):
    """Dataset of the feature files of a table, a bag (N, F) each.

    Args:
        table: Rows with the columns `image_id`, `path` (an HDF5 file), `label`, and perhaps `target`.
        with_labels: False returns bags alone, for prediction.
        fresh_epochs: Draw the tiles of bags that are larger than `max_tiles` anew in each epoch (training); else they
            are spread evenly.
        max_tiles: The most tiles of a bag. None: all.
    """

    noun = "bag"

    def __init__(
        self, table: pd.DataFrame, *, with_labels: bool = True, fresh_epochs: bool = False, max_tiles: int | None = None
    ) -> None:
        super().__init__(table, as_they_are, dtype="float", with_labels=with_labels, fresh_epochs=fresh_epochs)
        self.max_tiles = max_tiles

    def __getitem__(self, index: int) -> Any:
        """`(bag, target)`, or the bag alone."""
        return (self.image(index), self.targets[index % len(self)]) if self.with_labels else self.image(index)

    @persistent
    def image(self, index: int) -> Tensor:
        """The features of one slide's tiles, (N, F) float32."""
        features = read_features(self.paths[index % len(self)]).features
        return torch.from_numpy(features[self._chosen(index, len(features))])

    def _chosen(self, index: int, count: int) -> NDArray[np.int64]:
        if self.max_tiles is None or count <= self.max_tiles:
            return np.arange(count)
        if self.fresh_epochs:
            return np.sort(self.generator(index).choice(count, self.max_tiles, replace=False))
        return np.linspace(0, count - 1, self.max_tiles).round().astype(np.int64)


def as_they_are(image: Any) -> Any:
    """The image: features are not transformed."""
    return image
