"""Small networks and images for tests: seconds to train, on real structure."""

from __future__ import annotations

import torch
from torch import nn

from worker.algorithms.architectures.small_resnet import resnet18
from worker.algorithms.classifier import Classifier
from worker.algorithms.data import Images

MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)


def small_classifier(num_classes: int = 4, width: int = 8, seed: int = 0, in_channels: int = 3) -> Classifier:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Classifier(resnet18(num_classes, in_channels, width), MEAN[:in_channels], STD[:in_channels]).eval()


def noisy_stripes(count: int, num_classes: int = 4, size: int = 16, seed: int = 0) -> Images:
    """Classes are told apart by the direction and the period of stripes, under noise and random phase and colour."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % num_classes
    rows, columns = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    angle = labels * torch.pi / num_classes
    along = rows * torch.cos(angle)[:, None, None] + columns * torch.sin(angle)[:, None, None]
    phase = 2 * torch.pi * torch.rand(count, 1, 1, generator=generator)
    stripes = torch.sin(2 * torch.pi * along / 5 + phase)[:, None]
    colour = 0.3 + 0.7 * torch.rand(count, 3, 1, 1, generator=generator)
    noise = 0.5 * torch.randn(count, 3, size, size, generator=generator)
    pixels = (127 + 60 * stripes * colour + 60 * noise).clamp(0, 255).to(torch.uint8)
    return Images(pixels, labels)


def same_state(one: nn.Module, other: nn.Module) -> bool:
    first, second = one.state_dict(), other.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)
