"""Augmentation of a whole batch at once, on the device, in uint8: one gather instead of a loop over images."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def crop_and_flip(pixels: Tensor, generator: torch.Generator, *, padding: int = 4, flip: bool = True) -> Tensor:
    """Random crop after zero padding, and a random horizontal flip: what torchvision's RandomCrop and
    RandomHorizontalFlip do one image at a time.

    (N, C, H, W) uint8 in and out; the result is laid out channels-last, which is what the convolutions want.
    """
    count, _, height, width = pixels.shape
    device = pixels.device
    top, left = torch.randint(0, 2 * padding + 1, (2, count), generator=generator, device=device)
    rows = top[:, None] + torch.arange(height, device=device)
    columns = torch.arange(width, device=device).expand(count, width)
    if flip:
        flipped = torch.rand(count, generator=generator, device=device) < 0.5
        columns = torch.where(flipped[:, None], width - 1 - columns, columns)
    columns = left[:, None] + columns
    padded = F.pad(pixels, (padding,) * 4)
    images = torch.arange(count, device=device)[:, None, None]
    # Indices on both sides of a slice put the channels last: (N, H, W, C), seen as (N, C, H, W).
    return padded[images, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def crop(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Random crop only, for digits and whatever else means something different in a mirror."""
    return crop_and_flip(pixels, generator, flip=False)


def unchanged(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """No augmentation: the paper's SAGE sees its clean images as they are."""
    return pixels
