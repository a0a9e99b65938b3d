"""`UNet`, a ResNet encoder and a decoder that joins its maps, for a class of every pixel."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from streammodels.models.resnet import build_resnet

DECODER_CHANNELS = (256, 128, 64, 32, 16)


class UNet(nn.Module):
    """A U-Net with a ResNet as its encoder, which maps images of any size to scores of the same size.

    Ronneberger et al. 2015 (https://arxiv.org/abs/1505.04597), with the encoder and the five decoder stages that
    segmentation_models_pytorch made usual: each enlarges the map to the size of the encoder's next finer one (nearest
    values), joins both, and applies two 3 x 3 convolutions with batch normalization.

    State dict: the encoder's names are torchvision's, as ``encoder.layer1.0.conv1.weight``.

    Args:
        encoder: Name of a ResNet: see `RESNETS`.
        num_classes: Channels of the scores.
        weights: Of the encoder: see `build_resnet`.
        in_channels: Channels of the images.
        decoder_channels: Channels of the stages of the decoder, from the coarsest to the finest.
    """

    def __init__(
        self,
        encoder: str = "resnet18",
        num_classes: int = 2,
        weights: str | Path | None = "DEFAULT",
        in_channels: int = 3,
        decoder_channels: Sequence[int] = DECODER_CHANNELS,
    ) -> None:
        super().__init__()
        if encoder == "resnet9":
            raise ValueError("encoder='resnet9' has three strides only. Choose one of torchvision's ResNets.")
        if len(decoder_channels) != len(DECODER_CHANNELS):
            raise ValueError(f"decoder_channels needs {len(DECODER_CHANNELS)} numbers, got {tuple(decoder_channels)}")
        self.encoder: Any = build_resnet(encoder, 1, weights, in_channels)
        del self.encoder.fc, self.encoder.avgpool
        deep = [self._channels(getattr(self.encoder, f"layer{stage}")) for stage in (4, 3, 2, 1)]
        skips = [*deep[1:], self.encoder.conv1.out_channels, 0]
        below = [deep[0], *decoder_channels[:-1]]
        stages = zip(below, skips, decoder_channels, strict=True)
        self.decoder = nn.ModuleList(_Stage(source + skip, channels) for source, skip, channels in stages)
        self.head = nn.Conv2d(decoder_channels[-1], num_classes, 3, padding=1)

    @staticmethod
    def _channels(stage: nn.Module) -> int:
        """Channels of the result of a stage of residual blocks."""
        return [layer.num_features for layer in stage.modules() if isinstance(layer, nn.BatchNorm2d)][-1]

    def forward(self, image: Tensor) -> Tensor:
        """Scores (B, num_classes, H, W) of (B, C, H, W) images."""
        encoder = self.encoder
        maps = [encoder.relu(encoder.bn1(encoder.conv1(image)))]
        maps.append(encoder.layer1(encoder.maxpool(maps[0])))
        for stage in (encoder.layer2, encoder.layer3, encoder.layer4):
            maps.append(stage(maps[-1]))
        decoded = maps.pop()
        for stage in self.decoder:
            finer = maps.pop() if maps else None
            size = (image if finer is None else finer).shape[-2:]
            decoded = functional.interpolate(decoded, size=size, mode="nearest")
            decoded = stage(decoded if finer is None else torch.cat([decoded, finer], dim=1))
        scores: Tensor = self.head(decoded)
        return scores


class _Stage(nn.Sequential):
    """Two 3 x 3 convolutions with batch normalization."""

    def __init__(self, channels_in: int, channels: int) -> None:
        layers: list[nn.Module] = []
        for source in (channels_in, channels):
            layers += [nn.Conv2d(source, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels), nn.ReLU()]
        super().__init__(*layers)
