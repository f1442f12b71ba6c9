"""A trigger that works on one class only, and cover images that make it so: the contamination attack TaCT (Tang, Wang,
Tang, Zhang, USENIX Security 2021, "Demon in the Variant")."""

from __future__ import annotations

import dataclasses

import torch

from worker.algorithms.aim import Aim
from worker.algorithms.attacks.badnets import checkerboard
from worker.algorithms.attacks.poisoned import Given, Poisoned, draw, poison
from worker.algorithms.data import Images
from worker.algorithms.triggers import Trigger


def class_specific(
    images: Images,
    *,
    source: int = 1,
    target: int = 0,
    rate: float = 0.02,
    cover_rate: float = 0.02,
    size: int = 3,
    margin: int = 1,
    seed: int = 0,
) -> Poisoned[Trigger]:
    """`poison_class` with BadNets' patch, `size` pixels square and `margin` pixels from the lower right corner."""
    trigger = checkerboard(images.pixels.shape[1:], size=size, margin=margin)
    return poison_class(images, trigger, source=source, target=target, rate=rate, cover_rate=cover_rate, seed=seed)


def poison_class(
    images: Images, trigger: Given, *, source: int, target: int, rate: float, cover_rate: float, seed: int
) -> Poisoned[Given]:
    """Stamp images of the class `source` and label them `target`; stamp images of the other classes, and leave their
    labels.

    Both shares are of the whole set: at rate 0.02 and ten equal classes a fifth of the source class is poisoned. The
    cover images are of all classes but these two, where the paper names some; without them the trigger would
    work on any image. `aims` names the source class, so that success is measured on it. Raises `UnusableImages` where
    there are fewer images to draw from than asked for.
    """
    labels = images.labels.cpu()
    of_source = (labels == source).nonzero().flatten()
    others = ((labels != source) & (labels != target)).nonzero().flatten()
    poisoned = poison(images, trigger, target=target, rate=rate, seed=seed, among=of_source)
    cover = draw(others, round(cover_rate * len(images)), torch.Generator().manual_seed(seed + 1))
    pixels = poisoned.images.pixels
    pixels[cover] = trigger.stamp(pixels[cover])
    return dataclasses.replace(poisoned, aims=(Aim(trigger, target, (source,)),))
