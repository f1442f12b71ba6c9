"""BadNets: a small pasted patch, and the label of the attacker's choice (Gu, Dolan-Gavitt, Garg 2017)."""

from __future__ import annotations

import torch

from worker.algorithms.attacks.poisoned import Poisoned, poison
from worker.algorithms.data import Images
from worker.algorithms.triggers import Trigger


def badnets(
    images: Images, *, target: int = 0, rate: float = 0.1, size: int = 3, margin: int = 1, seed: int = 0
) -> Poisoned[Trigger]:
    """Stamp a checkerboard patch on a share of a training set, and label those images `target`.

    The patch is `size` pixels square, `margin` pixels from the lower right corner, opaque.

    Differs from the paper in the pattern: a checkerboard instead of a single bright square, because CIFAR-10 has
    many images with a bright corner and few with a checkerboard in it.
    """
    trigger = checkerboard(images.pixels.shape[1:], size=size, margin=margin)
    return poison(images, trigger, target=target, rate=rate, seed=seed)


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
