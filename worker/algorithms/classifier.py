"""A network together with its normalisation, so that everything around it works on pixels in [0, 1]."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Classifier(nn.Module):
    """`network((x - mean) / std)`: (N, C, H, W) float in [0, 1] to logits (N, K).

    Triggers, masks and perturbations live in pixel space; stamping in normalised space is the classic reason why
    Neural Cleanse "does not work". The state dict that goes in and out of files is `network`'s alone.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(-1, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network((x - self.mean) / self.std)
        return logits
