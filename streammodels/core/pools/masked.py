"""Reductions that are limited to the pixels of a mask."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from streammodels.core.reductions import Parts, Reduction
from streammodels.errors import EmptyMaskError


@dataclass(frozen=True)
class Masked(Reduction):
    """Another reduction, of those pixels of a map where a second map, of one channel, is not zero.

    It gets the chosen pixels of each image as a map of one row. A strip without any has a partial result that `combine`
    leaves out, for the other reduction may have none of nothing, as a maximum.

    Attributes:
        inner: The other reduction.
    """

    inner: Reduction

    @property
    def random(self) -> bool:
        """See `Reduction.random`."""
        return self.inner.random

    @property
    def ignores_order(self) -> bool:
        """See `Reduction.ignores_order`."""
        return self.inner.ignores_order

    def partial(self, rows: Tensor, *tensors: Tensor) -> Parts:
        """The partial results of the other reduction, and the number of chosen pixels (B,)."""
        mask, *tensors_ = tensors
        if mask.shape[1] != 1 or mask.shape[2:] != rows.shape[2:] or len(mask) != len(rows):
            raise ValueError(
                f"a pool takes a mask (B, 1, H, W) beside its map, got {tuple(mask.shape)} beside {tuple(rows.shape)}."
            )
        if rows.is_meta or isinstance(mask, FakeTensor):  # without values
            return (*self.inner.partial(rows, *tensors_), rows.new_zeros(len(rows), dtype=torch.float64))
        results, counts = [], []
        for image, chosen in zip(rows, mask, strict=True):
            places = chosen.flatten().nonzero()[:, 0]
            counts.append(len(places))
            pixels = image.flatten(1)
            pixels = pixels.index_select(1, places) if len(places) else pixels[:, :1].detach()
            results.append(self.inner.partial(pixels[None, :, None], *tensors_))
        parts = [torch.cat(parts) for parts in zip(*results, strict=True)]
        return (*parts, torch.tensor(counts, dtype=torch.float64).to(rows.device))

    def combine(self, parts: Parts, pixels: int, dtype: torch.dtype, *tensors: Tensor) -> Tensor:
        """The result of the other reduction for the strips with chosen pixels.

        Raises:
            EmptyMaskError: If an image has none.
        """
        *values, counts = parts
        if counts.is_meta or isinstance(counts, FakeTensor):
            return self.inner.combine(tuple(values), pixels, dtype, *tensors)
        vectors = []
        for index, of_strips in enumerate(counts.detach().cpu().unbind(1)):
            strips = of_strips.nonzero()[:, 0].to(counts.device)
            if not len(strips):
                raise EmptyMaskError(index)
            own = tuple(value[:, index : index + 1].index_select(0, strips) for value in values)
            vectors.append(self.inner.combine(own, int(of_strips.sum()), dtype, *tensors))
        return torch.cat(vectors)
