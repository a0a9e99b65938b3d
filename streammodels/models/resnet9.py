"""ResNet-9, a small ResNet for photos of a few hundred pixels and for quick tests.

Several networks with nine weighted layers are called ResNet-9. The best known (D. Page, 2018,
https://myrtle.ai/learn/how-to-train-your-resnet/) is made for 32x32 pixels, has no stride in its stem, and costs ten
times the operations of ResNet-18 on the same image. This one keeps its plain convolutions and two residual blocks
behind the stem of He et al. (https://arxiv.org/abs/1512.03385), at half the width:

    layer    operations                                                 channels   stride of the map
    conv1    7x7 convolution / 2                                             32        2
    maxpool  3x3 maximum / 2                                                 32        4
    layer1   3x3 convolution / 2, residual block of two 3x3 convolutions     64        8
    layer2   3x3 convolution / 2                                            128       16
    layer3   3x3 convolution / 2, residual block of two 3x3 convolutions    256       32
    avgpool  global mean                                                    256
    fc       linear classifier                                          classes

Every convolution is followed by batch normalization and a ReLU, which in a residual block comes after the sum.
1.65 million parameters (ResNet-18: 11.7), 4,300 multiplications per image pixel (ResNet-18: 36,000).
"""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock


class ResNet9(nn.Module):
    """ResNet-9, with the layer names of torchvision's ResNets; see the module docstring.

    Args:
        num_classes: Outputs of the classifier.
        zero_init_residual: Whether to initialize residual branches to zero, as in torchvision.
    """

    def __init__(self, num_classes: int = 1000, zero_init_residual: bool = False) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 32, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(32)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.layer1 = nn.Sequential(_downsampling(32, 64), BasicBlock(64, 64))
        self.layer2 = nn.Sequential(_downsampling(64, 128))
        self.layer3 = nn.Sequential(_downsampling(128, 256), BasicBlock(256, 256))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(256, num_classes)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(layer, BasicBlock) and zero_init_residual:
                nn.init.zeros_(layer.bn2.weight)

    def forward(self, image: Tensor) -> Tensor:
        """Logits (B, num_classes) of (B, 3, H, W) images."""
        stem: Tensor = self.maxpool(self.relu(self.bn1(self.conv1(image))))
        features: Tensor = self.avgpool(self.layer3(self.layer2(self.layer1(stem))))
        logits: Tensor = self.fc(features.flatten(1))
        return logits


def _downsampling(channels_in: int, channels_out: int) -> nn.Sequential:
    """A convolution with stride 2, batch normalization and ReLU."""
    convolution = nn.Conv2d(channels_in, channels_out, 3, stride=2, padding=1, bias=False)
    return nn.Sequential(OrderedDict(conv=convolution, bn=nn.BatchNorm2d(channels_out), relu=nn.ReLU(inplace=True)))
