"""SqueezeNet 1.0 for small images: torchvision's, with a 3×3 stride-1 stem and no max-pool right after it."""

from __future__ import annotations

from torch import nn
from torchvision.models.squeezenet import SqueezeNet


class SmallSqueezeNet(SqueezeNet):
    """SqueezeNet (Iandola et al. 2016). Parameter names are torchvision's; only `features.0.weight` is smaller."""

    def __init__(self, num_classes: int, in_channels: int) -> None:
        super().__init__("1_0", num_classes)
        self.features[0] = nn.Conv2d(in_channels, 96, kernel_size=3, padding=1)
        nn.init.kaiming_uniform_(self.features[0].weight)
        nn.init.zeros_(self.features[0].bias)
        self.features[2] = nn.Identity()


def squeezenet(num_classes: int, in_channels: int) -> SmallSqueezeNet:
    return SmallSqueezeNet(num_classes, in_channels)
