"""BadNets: a small pasted patch, and the label of the attacker's choice (Gu, Dolan-Gavitt, Garg 2017)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from worker.algorithms.data import Images
from worker.algorithms.triggers import Trigger


@dataclass(frozen=True)
class Poisoned:
    """A training set with a backdoor in it: `images` (N), the `trigger`, and `index`, which of the N carry it."""

    images: Images
    trigger: Trigger
    index: Tensor


def badnets(
    images: Images, *, target: int = 0, rate: float = 0.1, size: int = 3, margin: int = 1, seed: int = 0
) -> Poisoned:
    """Stamp a checkerboard patch on a share of a training set, and label those images `target`.

    The patch is `size` pixels square, `margin` pixels from the lower right corner, opaque. The poisoned images are
    drawn from all classes, the target's own included, so that at rate 0.1 and ten classes 9 % of the labels change.
    Stamp before any augmentation: an attacker poisons files, and the victim's pipeline crops and flips them.

    Differs from the paper in the pattern: a checkerboard instead of a single bright square, because CIFAR-10 has
    many images with a bright corner and few with a checkerboard in it.
    """
    trigger = checkerboard(images.pixels.shape[1:], size=size, margin=margin)
    generator = torch.Generator().manual_seed(seed)
    index = torch.randperm(len(images), generator=generator)[: round(rate * len(images))]
    pixels, labels = images.pixels.clone(), images.labels.clone()
    pixels[index] = trigger.stamp(pixels[index])
    labels[index] = target
    return Poisoned(Images(pixels, labels), trigger, index)


def checkerboard(shape: tuple[int, ...], *, size: int, margin: int) -> Trigger:
    """A `size` × `size` patch of alternating black and white pixels for images of `shape` (C, H, W)."""
    channels, height, width = shape
    rows, columns = torch.arange(size)[:, None], torch.arange(size)
    patch = ((rows + columns) % 2 == 0).float()
    top, left = height - margin - size, width - margin - size
    mask = torch.zeros(1, height, width)
    mask[:, top : top + size, left : left + size] = 1
    pattern = torch.zeros(channels, height, width)
    pattern[:, top : top + size, left : left + size] = patch
    return Trigger(mask, pattern)
