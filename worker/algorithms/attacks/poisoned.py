"""A poisoned training set, and the one way to make it: what the attacks that only poison files have in common."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

import torch
from torch import Tensor, nn

from worker.algorithms.aim import Aim, Kind
from worker.algorithms.data import Images
from worker.algorithms.errors import UnusableImages
from worker.algorithms.triggers import Stamp

Given = TypeVar("Given", bound=Stamp)


@dataclass(frozen=True)
class Poisoned(Generic[Kind]):
    """A training set with a backdoor in it: `images` (N), `index`, which of the N are poisoned, and the `aims`: the
    triggers, and what each is for. `start` is the network that goes on training with these images, none: a fresh one;
    and `layers`, which of its layers do."""

    images: Images
    index: Tensor
    aims: tuple[Aim[Kind], ...]
    start: nn.Module | None = None
    layers: Literal["all", "last"] = "all"

    @property
    def trigger(self) -> Kind:
        """The trigger, or the first of several."""
        return self.aims[0].trigger


def poison(
    images: Images, trigger: Given, *, target: int, rate: float, seed: int, among: Tensor | None = None
) -> Poisoned[Given]:
    """Stamp a share of a training set, and label those images `target`.

    The poisoned images are drawn from those at the indices `among`, by default from all classes, the target's own
    included, so that at rate 0.1 and ten classes 9 % of the labels change; the share is of the whole set in any case.
    Stamp before any augmentation: an attacker poisons files, and the victim's pipeline crops and flips them. Raises
    `UnusableImages` as `draw` does.
    """
    generator = torch.Generator().manual_seed(seed)
    among = torch.arange(len(images)) if among is None else among
    index = draw(among, round(rate * len(images)), generator)
    pixels, labels = images.pixels.clone(), images.labels.clone()
    pixels[index] = trigger.stamp(pixels[index])
    labels[index] = target
    return Poisoned(Images(pixels, labels), index, (Aim(trigger, target),))


def draw(among: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """`count` of the indices `among` (M,), without replacement. Raises `UnusableImages` where there are fewer."""
    if count > len(among):
        raise UnusableImages(
            f"{count} images are to be stamped, of {len(among)} that may be", "Lower the rate, or give more images."
        )
    return among[torch.randperm(len(among), generator=generator)[:count]]
