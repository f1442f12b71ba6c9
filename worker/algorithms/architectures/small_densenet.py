"""DenseNet-121 for small images: torchvision's, with a 3×3 stride-1 stem and no max-pool right after it."""

from __future__ import annotations

from torch import nn
from torchvision.models.densenet import DenseNet


class SmallDenseNet(DenseNet):
    """DenseNet (Huang et al. 2017). Parameter names are torchvision's; only `features.conv0.weight` is smaller."""

    def __init__(self, num_classes: int, in_channels: int) -> None:
        super().__init__(growth_rate=32, block_config=(6, 12, 24, 16), num_init_features=64, num_classes=num_classes)
        self.features.conv0 = nn.Conv2d(in_channels, 64, kernel_size=3, padding=1, bias=False)
        nn.init.kaiming_normal_(self.features.conv0.weight)
        self.features.pool0 = nn.Identity()


def densenet121(num_classes: int, in_channels: int) -> SmallDenseNet:
    return SmallDenseNet(num_classes, in_channels)
