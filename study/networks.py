"""The networks of the arms: one small trunk without normalization, from which all are built."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from streammodels import GatedAttention, LogSumExp, Normalize, stream
from streammodels.models.pool_names import make_pool
from study.arms import Arm

CHANNELS = (8, 16, 32, 32)


@dataclass(frozen=True)
class Look:
    """How the images of a task look.

    Attributes:
        colors: Their channels.
        mean: About their mean, in 0..1.
        sd: About their standard deviation.
    """

    colors: int
    mean: float
    sd: float


def trunk(strides: Sequence[int], look: Look) -> nn.Sequential:
    """Four 3 x 3 convolutions with ReLU: (B, colors, H, W) in 0..1 to a map of 32 channels.

    The first weights are those of He et al. (2015), so that a map has the scale of the image: with torch's own, whose
    maps are a hundredth of that, most arms spend all steps on a plateau. Borders are padded with 0, the mean of
    the images after normalization.
    """
    layers: list[nn.Module] = [Normalize([look.mean] * look.colors, [look.sd] * look.colors)]
    before = look.colors
    for channels, stride in zip(CHANNELS, strides, strict=True):
        convolution = nn.Conv2d(before, channels, 3, stride, padding=1)
        nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
        nn.init.zeros_(convolution.bias)  # type: ignore[arg-type]
        layers += [convolution, nn.ReLU()]
        before = channels
    return nn.Sequential(*layers)


def pool_of(name: str) -> nn.Module:
    """The pool of an arm, over the positions of a map."""
    return LogSumExp(r=4.0) if name == "lse" else make_pool(name, CHANNELS[-1])


class WholeImage(nn.Module):
    """The arm that streams the whole image: (B, C, H, W) uint8 to logits (B,)."""

    def __init__(self, arm: Arm, look: Look, strip_rows: int | None) -> None:
        super().__init__()
        network = nn.Sequential(trunk(arm.strides, look), pool_of(arm.pool), nn.Flatten())
        self.shrink = arm.shrink
        self.streamed = stream(network, strip_rows=None if strip_rows is None else max(8, strip_rows // arm.shrink))
        self.head = nn.Linear(CHANNELS[-1], 1)

    def forward(self, images: Tensor) -> Tensor:
        """Logits of images."""
        logits: Tensor = self.head(self.streamed(shrunk(images, self.shrink)))
        return logits[:, 0]


class Tiles(nn.Module):
    """The arms whose network sees one tile at a time: (B, C, H, W) uint8 to logits (B,).

    Padding at the borders of tiles is that of the network, zeros. Images whose sides are no whole number of tiles are
    refused, so that no pixel is left out.
    """

    def __init__(self, arm: Arm, look: Look) -> None:
        super().__init__()
        self.arm = arm
        self.trunk = trunk(arm.strides, look)
        self.pool = GatedAttention(CHANNELS[-1]) if arm.pool == "attention" else None
        self.head = nn.Linear(CHANNELS[-1], 1)

    def forward(self, images: Tensor) -> Tensor:
        """Logits of images."""
        tiles = cut(shrunk(images, self.arm.shrink), self.arm.tile_px, self.arm.stride_px)  # (B, N, C, h, w)
        if self.training and self.arm.sampled:
            order = torch.rand(tiles.shape[:2]).argsort(dim=1)[:, : self.arm.sampled]
            tiles = tiles[torch.arange(len(tiles))[:, None], order]
        vectors = self.trunk(tiles.flatten(0, 1)).amax((2, 3)).unflatten(0, tiles.shape[:2])  # (B, N, channels)
        logits: Tensor = self.head(vectors.amax(1) if self.pool is None else pooled(self.pool, vectors))
        return logits[:, 0]


class Bag(nn.Module):
    """Attention over the features of tiles, which are not trained: (B, N, F) to logits (B,)."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.embed = nn.Sequential(nn.Linear(features, 64), nn.ReLU())
        self.pool = GatedAttention(64)
        self.head = nn.Linear(64, 1)

    def forward(self, bags: Tensor) -> Tensor:
        """Logits of bags."""
        logits: Tensor = self.head(pooled(self.pool, self.embed(bags.float())))
        return logits[:, 0]


def build(arm: Arm, look: Look, *, strip_rows: int | None, features: int = 0) -> nn.Module:
    """The network of an arm, with weights of the global generator."""
    if arm.reads == "features":
        return Bag(features)
    return WholeImage(arm, look, strip_rows) if arm.reads == "image" else Tiles(arm, look)


def shrunk(images: Tensor, by: int) -> Tensor:
    """Images in 0..1, each pixel the mean of `by` x `by`, not rounded: (B, C, H, W) to (B, C, H / by, W / by)."""
    scaled = images.float() / 255
    return scaled if by == 1 else F.avg_pool2d(scaled, by)


def cut(images: Tensor, tile_px: int, stride_px: int) -> Tensor:
    """All tiles of images, (B, N, C, tile, tile)."""
    for side in images.shape[2:]:
        if (side - tile_px) % stride_px:
            raise ValueError(f"tiles of {tile_px} every {stride_px} pixels do not cover {side}. Choose other sizes.")
    tiles = images.unfold(2, tile_px, stride_px).unfold(3, tile_px, stride_px)
    return tiles.flatten(2, 3).transpose(1, 2)


def pooled(pool: nn.Module, vectors: Tensor) -> Tensor:
    """Vectors of a bag, (B, N, F), as the pixels of a map through a pool: (B, F)."""
    result: Tensor = pool(vectors.transpose(1, 2)[..., None]).flatten(1)
    return result
