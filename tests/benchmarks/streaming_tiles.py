"""The obvious baseline, exact overlapping tiles, each recomputed for its gradient.

Every output pixel belongs to one tile. A tile is cut out with as much overlap as its own outputs depend on, and cropped
to them behind the last layer, so results and gradients are those of the whole image. The overlap is computed as often
as tiles share it, which is what streaming strips avoids.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from streammodels.memory.summary import layer_facts
from streammodels.tracing.trace import trace


@dataclass(frozen=True)
class Span:
    """One side of a tile: image pixels ``start .. stop-1``, of whose outputs ``first .. last-1`` are its own."""

    start: int
    stop: int
    first: int
    last: int


def spans(side_px: int, tile_px: int, stride: int, lost_before: int, lost_after: int) -> list[Span]:
    """Tiles along one side of the image: each owns the outputs not affected by its inner borders.

    Raises:
        ValueError: If a tile has no output of its own.
    """
    outputs, per_tile = -(-side_px // stride), tile_px // stride - lost_before - lost_after
    if per_tile < 1:
        raise ValueError(
            f"tiles of {tile_px} px lose all their outputs: take more than {(lost_before + lost_after) * stride} px"
        )
    result, owned = [], 0
    while owned < outputs:
        start = max(0, owned - lost_before)
        until = outputs if start * stride + tile_px >= side_px else start + tile_px // stride - lost_after
        result.append(Span(start * stride, min(side_px, start * stride + tile_px), owned - start, until - start))
        owned = until
    return result


class TiledAverage(nn.Module):
    """Global average of a trunk's feature map, computed tile by tile."""

    def __init__(self, trunk: nn.Module, tile_px: int) -> None:
        super().__init__()
        self.trunk = trunk
        self.tile_px = tile_px
        self.facts = layer_facts(trace(trunk))[-1]

    def forward(self, image: Tensor) -> Tensor:
        """(B, C) means; their gradient reaches the trunk's parameters, not the image."""
        anchor = torch.zeros((), requires_grad=True)  # so that autograd calls the backward pass
        result: Tensor = _Tiled.apply(anchor, self, image)
        return result

    def parts(self, image: Tensor) -> Iterator[Tensor]:
        """Sums over each tile's own outputs, which add up to that of the whole map."""
        facts, (height, width) = self.facts, image.shape[2:]
        for row in spans(height, self.tile_px, facts.stride, facts.lost_top, facts.lost_bottom):
            for column in spans(width, self.tile_px, facts.stride, facts.lost_top, facts.lost_bottom):
                features = self.trunk(image[:, :, row.start : row.stop, column.start : column.stop])
                yield features[:, :, row.first : row.last, column.first : column.last].sum(dim=(2, 3))

    def pixels(self, image: Tensor) -> int:
        """Pixels of the feature map."""
        return -(-image.shape[2] // self.facts.stride) * -(-image.shape[3] // self.facts.stride)


class _Tiled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, anchor: Tensor, tiled: TiledAverage, image: Tensor) -> Tensor:
        ctx.tiled, ctx.image = tiled, image
        with torch.no_grad():
            return torch.stack(list(tiled.parts(image))).sum(dim=0) / tiled.pixels(image)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, ...]:
        tiled: TiledAverage = ctx.tiled
        share = grad / tiled.pixels(ctx.image)
        with torch.enable_grad():
            for part in tiled.parts(ctx.image):
                torch.autograd.backward(part, share)
        return None, None, None
