"""What the losses of purifiers have in common."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from worker.algorithms.training import Loss, cross_entropy


def in_training(loss: Loss, *, otherwise: Loss = cross_entropy) -> Loss:
    """`loss` where a gradient is wanted; `otherwise` where the network is only measured (`training.validate`), for
    losses that make their images or weights worse on purpose, or that need a gradient of their own."""

    def either(network: nn.Module, x: Tensor, labels: Tensor) -> Tensor:
        return (loss if torch.is_grad_enabled() else otherwise)(network, x, labels)

    return either
