"""ShuffleNetV2 ×1.0 for small images: torchvision's, with a stride-1 stem and no max-pool right after it."""

from __future__ import annotations

from torch import nn
from torchvision.models.shufflenetv2 import ShuffleNetV2


class SmallShuffleNetV2(ShuffleNetV2):
    """ShuffleNetV2 (Ma et al. 2018). Parameter names and, on colour images, shapes are torchvision's."""

    def __init__(self, num_classes: int, in_channels: int) -> None:
        super().__init__([4, 8, 4], [24, 116, 232, 464, 1024], num_classes)
        self.conv1[0] = nn.Conv2d(in_channels, 24, kernel_size=3, padding=1, bias=False)
        self.maxpool = nn.Identity()


def shufflenet_v2(num_classes: int, in_channels: int) -> SmallShuffleNetV2:
    return SmallShuffleNetV2(num_classes, in_channels)
