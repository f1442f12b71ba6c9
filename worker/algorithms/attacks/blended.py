"""Blended: a faint picture over the whole image (Chen, Liu, Li, Lu, Song 2017, "Targeted Backdoor Attacks")."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from worker.algorithms.attacks.poisoned import Poisoned, poison
from worker.algorithms.data import Images
from worker.algorithms.triggers import Trigger


def blended(
    images: Images, *, target: int = 0, rate: float = 0.1, opacity: float = 0.2, cells: int = 8, seed: int = 0
) -> Poisoned[Trigger]:
    """Blend a random pattern into a share of a training set with weight `opacity`, and label those images `target`.

    The pattern is `cells` × `cells` squares of random colour, the same for all images and drawn by `seed`. Differs from
    the paper's random pattern in the squares: noise of single pixels does not survive the crops of the victim's
    augmentation, a picture does.
    """
    _, channels, height, width = images.pixels.shape
    generator = torch.Generator().manual_seed(seed)
    colours = torch.rand(1, channels, cells, cells, generator=generator)
    pattern = F.interpolate(colours, size=(height, width), mode="nearest")[0]
    trigger = Trigger(torch.full((1, height, width), opacity), pattern)
    return poison(images, trigger, target=target, rate=rate, seed=seed)
