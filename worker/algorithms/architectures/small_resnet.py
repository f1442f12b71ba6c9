"""ResNets for small images: torchvision's, with a 3×3 stride-1 stem, no max-pool, and any width."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet


class SmallResNet(ResNet):
    """ResNet (He et al. 2016) as the SAGE paper runs it on 32×32: `conv1` is 3×3 with stride 1, `maxpool` is absent.

    Stages have `width`, 2·, 4· and 8·`width` channels (64 in the paper). Parameter names are torchvision's, so any
    state dict of that naming fits. A narrow network of this kind is what fits into an example file.
    """

    def __init__(
        self,
        block: type[BasicBlock | Bottleneck],
        layers: tuple[int, int, int, int],
        num_classes: int,
        in_channels: int,
        width: int,
    ) -> None:
        nn.Module.__init__(self)  # ResNet's own would build the large-image stem, 64 channels wide
        self._norm_layer = nn.BatchNorm2d
        self.inplanes, self.dilation, self.groups = width, 1, 1
        self.base_width = 64  # of a bottleneck, relative to its planes: 64 means as wide as they are
        self.conv1 = nn.Conv2d(in_channels, width, kernel_size=3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = self._make_layer(block, width, layers[0])
        self.layer2 = self._make_layer(block, 2 * width, layers[1], stride=2)
        self.layer3 = self._make_layer(block, 4 * width, layers[2], stride=2)
        self.layer4 = self._make_layer(block, 8 * width, layers[3], stride=2)
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(8 * width * block.expansion, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(torch.flatten(self.avgpool(x), 1))  # type: ignore[no-any-return]


def resnet18(num_classes: int, in_channels: int, width: int = 64) -> SmallResNet:
    return SmallResNet(BasicBlock, (2, 2, 2, 2), num_classes, in_channels, width)


def resnet50(num_classes: int, in_channels: int, width: int = 64) -> SmallResNet:
    return SmallResNet(Bottleneck, (3, 4, 6, 3), num_classes, in_channels, width)
