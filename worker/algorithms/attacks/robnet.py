"""RobNet: triggers for units of large weight and activation, pasted at several places, one or more of them (Gong, Chen,
Wang, Huang, Mao, Zhang, IEEE JSAC 2021, "Defense-Resistant Backdoor Attacks")."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from worker.algorithms.aim import Aim
from worker.algorithms.attacks.neuron_trigger import neuron_triggers
from worker.algorithms.attacks.poisoned import Poisoned, poison
from worker.algorithms.attacks.shapes import PLACES, Place, Shape, corner, shape_mask
from worker.algorithms.data import Images
from worker.algorithms.errors import UnfitOptions
from worker.algorithms.triggers import Trigger


def robnet(
    images: Images,
    benign: nn.Module,
    *,
    triggers: int = 1,
    targets: Sequence[int] = (3,),
    rate: float = 0.1,
    shape: Shape = "square",
    size: int = 4,
    margin: int = 1,
    places: Sequence[Place] = tuple(PLACES),
    transparency: float = 0.0,
    units: int = 2,
    reach: float = 10.0,
    steps: int = 500,
    batch_size: int = 32,
    seed: int = 0,
) -> Poisoned[Trigger]:
    """Make `triggers` triggers for units of `benign` with large weights and activations, stamp each on its part of a
    training set at one of `places`, and label those images with the trigger's target: the one of `targets`, or each its
    own. The attacker trains on from `benign`, which is not changed: a few epochs at lr 0.01.

    The triggers are made at the first of the places, and `aims` hold them there: an attack is measured at one place, so
    that what an image gets depends on nothing but the trigger. In the training set all places are equally frequent.
    `rate` is the share of all triggers together. Shape, size and transparency are as in `trojan_nn`; `units`, `reach`,
    `steps` and `batch_size` are those of `neuron_triggers`, each trigger with units of its own.

    Differs from the paper in the score of a unit: the product of its summed outgoing weights and of its mean
    activation, which is what it adds to the logits, and needs no weighing of the one against the other. Raises
    `UnfitOptions` where targets and triggers do not pair up, and as `neuron_triggers` and `shape_mask` do.
    """
    if triggers < 1 or len(targets) not in (1, triggers) or not places:
        raise UnfitOptions(
            f"{triggers} triggers have {len(targets)} targets and {len(places)} places",
            "Give at least one trigger, one target for all of them or one for each, and at least one place.",
        )
    _, _, height, width = images.pixels.shape
    corners = [corner((height, width), size=size, margin=margin, place=place) for place in places]
    mask = shape_mask(shape, (height, width), size=size, margin=margin, place=places[0], transparency=transparency)
    made = neuron_triggers(
        benign,
        images,
        mask,
        lambda weight, activation: weight * activation,
        count=triggers,
        units=units,
        reach=reach,
        steps=steps,
        batch_size=batch_size,
        seed=seed,
    )
    aims = tuple(Aim(trigger, targets[number % len(targets)]) for number, trigger in enumerate(made))
    return _patched(images, aims, corners, rate, seed, benign)


@dataclass(frozen=True)
class _Scattered:
    """Each image of a batch gets the next of `triggers`, the same trigger at its several places."""

    triggers: Sequence[Trigger]

    def stamp(self, pixels: Tensor) -> Tensor:
        stamped = torch.empty_like(pixels)
        for first, trigger in enumerate(self.triggers):
            stamped[first :: len(self.triggers)] = trigger.stamp(pixels[first :: len(self.triggers)])
        return stamped


def _patched(
    images: Images,
    aims: tuple[Aim[Trigger], ...],
    corners: Sequence[tuple[int, int]],
    rate: float,
    seed: int,
    benign: nn.Module,
) -> Poisoned[Trigger]:
    """The images are dealt out to the triggers at random, and each trigger poisons `rate` of its part."""
    index = []
    dealt = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed)).tensor_split(len(aims))
    for aim, among in zip(aims, dealt, strict=True):
        scattered = _Scattered([_moved(aim.trigger, corners[0], place) for place in corners])
        poisoned = poison(images, scattered, target=aim.target, rate=rate / len(aims), seed=seed, among=among)
        images = poisoned.images
        index.append(poisoned.index)
    return Poisoned(images, torch.cat(index), aims, start=benign)


def _moved(trigger: Trigger, start: tuple[int, int], end: tuple[int, int]) -> Trigger:
    shifts = [after - before for before, after in zip(start, end, strict=True)]
    return Trigger(trigger.mask.roll(shifts, (1, 2)), trigger.pattern.roll(shifts, (1, 2)))
