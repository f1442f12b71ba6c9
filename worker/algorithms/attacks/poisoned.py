"""A poisoned training set, and the one way to make it: what the attacks that only poison files have in common."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from worker.algorithms.attacks.aim import Aim, Kind
from worker.algorithms.data import Images
from worker.algorithms.triggers import Stamp

Given = TypeVar("Given", bound=Stamp)


@dataclass(frozen=True)
class Poisoned(Generic[Kind]):
    """A training set with a backdoor in it: `images` (N), `index`, which of the N are poisoned, and the `aims`: the
    triggers, and what each is for. `start` is the network that the attacker goes on training with these images; none:
    a fresh one."""

    images: Images
    index: Tensor
    aims: tuple[Aim[Kind], ...]
    start: nn.Module | None = None

    @property
    def trigger(self) -> Kind:
        """The trigger, or the first of several."""
        return self.aims[0].trigger


def poison(images: Images, trigger: Given, *, target: int, rate: float, seed: int) -> Poisoned[Given]:
    """Stamp a share of a training set, and label those images `target`.

    The poisoned images are drawn from all classes, the target's own included, so that at rate 0.1 and ten classes 9 %
    of the labels change. Stamp before any augmentation: an attacker poisons files, and the victim's pipeline crops and
    flips them.
    """
    generator = torch.Generator().manual_seed(seed)
    index = torch.randperm(len(images), generator=generator)[: round(rate * len(images))]
    pixels, labels = images.pixels.clone(), images.labels.clone()
    pixels[index] = trigger.stamp(pixels[index])
    labels[index] = target
    return Poisoned(Images(pixels, labels), index, (Aim(trigger, target),))
