"""Features of tiles by encoders that are not trained on the data of the study."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from slidestream import features
from study.arms import Arm
from study.networks import Look, cut, trunk

_ENLARGED = 2  # tiles of 32 pixels are small for a network of photos of 224


def encode(images: Tensor, arm: Arm, look: Look) -> Tensor:
    """Features of all tiles of images, (B, C, H, W) uint8 to (B, N, F) float16."""
    encoder = make_encoder(arm, look)
    found = list[Tensor]()
    with torch.inference_mode():
        for part in torch.split(images, 16):
            tiles = cut(part.float() / 255, arm.tile_px, arm.stride_px)
            found.append(encoder(tiles.flatten(0, 1)).unflatten(0, tiles.shape[:2]).half())
    return torch.cat(found)


def make_encoder(arm: Arm, look: Look) -> nn.Module:
    """The encoder of an arm: (B, colors, h, w) in 0..1 to vectors.

    Raises:
        WeightsUnavailableError: if the package with the ImageNet weights is not installed.
    """
    if arm.encoder == "random":
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return nn.Sequential(trunk(arm.strides, look), nn.AdaptiveMaxPool2d(1), nn.Flatten()).eval()
    return nn.Sequential(
        _Enlarged(), features.make_encoder("timm/tf_efficientnet_lite0", "package:efficientnet_lite0"), nn.Flatten()
    ).eval()


class _Enlarged(nn.Module):
    """Gray repeated as three channels, and tiles enlarged, as a network of photos needs them."""

    def forward(self, tiles: Tensor) -> Tensor:
        """(B, 1 or 3, h, w) to (B, 3, 2 h, 2 w)."""
        return F.interpolate(tiles.expand(-1, 3, -1, -1), scale_factor=_ENLARGED, mode="bilinear", antialias=True)
