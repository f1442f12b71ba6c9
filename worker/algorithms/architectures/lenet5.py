"""LeNet-5 (LeCun et al. 1998) with ReLU and max-pooling, for 28×28 and 32×32 images, gray or colour."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class LeNet5(nn.Module):
    """Three convolutions C1, C3, C5 (`conv1`, `conv2`, `conv3`), then F6 and the output (`fc1`, `fc2`).

    Smaller images are padded to 32×32, the size that the network was drawn for. C5 gives one value per channel there,
    and a single pixel is no attention map. So `conv3` slides over a padded map and yields 5×5; the classifier reads
    the middle of it, which is what C5 gives without padding.
    """

    def __init__(self, num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 6, kernel_size=5)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(6, 16, kernel_size=5)
        self.relu2 = nn.ReLU()
        self.conv3 = nn.Conv2d(16, 120, kernel_size=5, padding=2)
        self.relu3 = nn.ReLU()
        self.fc1 = nn.Linear(120, 84)
        self.fc2 = nn.Linear(84, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        if max(x.shape[2:]) > 32:
            raise ValueError(f"LeNet-5 takes images up to 32×32, got {x.shape[2]}×{x.shape[3]}")
        missing_rows, missing_columns = 32 - x.shape[2], 32 - x.shape[3]
        top, left = missing_rows // 2, missing_columns // 2
        x = F.pad(x, (left, missing_columns - left, top, missing_rows - top))
        x = F.max_pool2d(self.relu1(self.conv1(x)), 2)
        x = F.max_pool2d(self.relu2(self.conv2(x)), 2)
        x = self.relu3(self.conv3(x))[:, :, 2, 2]
        return self.fc2(torch.relu(self.fc1(x)))  # type: ignore[no-any-return]


def lenet5(num_classes: int, in_channels: int) -> LeNet5:
    return LeNet5(num_classes, in_channels)
