"""The memory layout that a network is trained in."""

from __future__ import annotations

import torch
from torch import nn

BLOCK = 16  # channels that oneDNN takes at once, in float32 with AVX-512; eight with AVX2


def layout(model: nn.Module, device: torch.device) -> torch.memory_format:
    """Channels last, which the convolutions of oneDNN and cuDNN want, wherever it is safe.

    On a CPU, oneDNN computes the weights' gradient of a 1×1 convolution with a stride wrongly where it has fewer input
    channels than a block and its input is channels last: it writes past its workspace, and the process crashes, hangs
    or goes on with other numbers (uxlfoundation/oneDNN#6035, open; seen with AVX2 as crashes). Such a network, in
    practice a very narrow ResNet, is trained in the plain layout.
    """
    if device.type == "cpu" and any(_is_unsafe(module) for module in model.modules()):
        return torch.contiguous_format
    return torch.channels_last


def _is_unsafe(module: nn.Module) -> bool:
    return (
        isinstance(module, nn.Conv2d)
        and module.kernel_size == (1, 1)
        and module.stride != (1, 1)
        and module.in_channels // module.groups < BLOCK
    )
