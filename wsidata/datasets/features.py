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
        table: Rows with the columns `image_id`, `path` (an HDF5 file), `label`, and perhaps `target`; or cases (see
            `label_table.by_case`), whose bag is that of all slides, one behind the other.
        with_labels: False returns bags alone, for prediction.
        fresh_epochs: Draw the tiles of bags that are larger than `max_tiles` anew in each epoch (training); else they
            are spread evenly.
        max_tiles: The most tiles of a bag. None: all.
    """

    noun = "bag"

    def __init__(
        self, table: pd.DataFrame, *, with_labels: bool = True, fresh_epochs: bool = False, max_tiles: int | None = None
    ) -> None:
        files = table["paths"] if "paths" in table.columns else [(path,) for path in table["path"]]
        named = table.assign(path=[", ".join(paths) for paths in files])
        super().__init__(named, as_they_are, dtype="float", with_labels=with_labels, fresh_epochs=fresh_epochs)
        self._files = [[str(path) for path in paths] for paths in files]
        self.max_tiles = max_tiles

    def __getitem__(self, index: int) -> Any:
        """`(bag, target)`, or the bag alone."""
        return (self.image(index), self.targets[index % len(self)]) if self.with_labels else self.image(index)

    @persistent
    def image(self, index: int) -> Tensor:
        """The features of the tiles of a slide or case, (N, F) float32."""
        features = np.concatenate([read_features(path).features for path in self.files(index)])
        return torch.from_numpy(features[self._chosen(index, len(features))])

    def files(self, index: int) -> list[str]:
        """The files of a sample."""
        return self._files[index % len(self)]

    def _chosen(self, index: int, count: int) -> NDArray[np.int64]:
        if self.max_tiles is None or count <= self.max_tiles:
            return np.arange(count)
        if self.fresh_epochs:
            return np.sort(self.generator(index).choice(count, self.max_tiles, replace=False))
        return np.linspace(0, count - 1, self.max_tiles).round().astype(np.int64)


def as_they_are(image: Any) -> Any:
    """The image: features are not transformed."""
    return image
