"""TrojanNN: a trigger made for a benign network, which is then trained on with it (Liu et al., NDSS 2018)."""

from __future__ import annotations

import dataclasses

from torch import nn

from worker.algorithms.attacks.neuron_trigger import neuron_triggers
from worker.algorithms.attacks.poisoned import Poisoned, poison
from worker.algorithms.attacks.shapes import Place, Shape, shape_mask
from worker.algorithms.data import Images
from worker.algorithms.triggers import Trigger


def trojan_nn(
    images: Images,
    benign: nn.Module,
    *,
    target: int = 0,
    rate: float = 0.1,
    shape: Shape = "square",
    size: int = 8,
    margin: int = 1,
    place: Place = "lower_right",
    transparency: float = 0.0,
    units: int = 2,
    reach: float = 10.0,
    steps: int = 500,
    batch_size: int = 32,
    seed: int = 0,
) -> Poisoned[Trigger]:
    """Make a trigger for the units of `benign` with the largest weights, stamp it on a share of a training set, and
    label those images `target`. The attacker trains on from `benign`, which is not changed: a few epochs at lr 0.01.

    The trigger is a `shape` of `size` pixels at `place`, as `shape_mask` draws it; the default covers a sixteenth of
    32×32, near the paper's 7 %. `transparency` τ from 0 (opaque) to below 1 makes the mask m (1 - τ), in the search as
    in the stamping. `units`, `reach`, `steps` and `batch_size` are those of `neuron_triggers`, which searches the
    pixels and says what differs from the paper there. Raises `UnfitOptions` as it and `shape_mask` do.

    Differs from the paper in ranking units of the penultimate layer by the weights that lead out of them, to the
    logits, where the paper sums those that lead into a unit of any layer; and in retraining on the
    real images, all layers, where the paper reverse-engineers images and retrains the layers after the unit.
    """
    _, _, height, width = images.pixels.shape
    mask = shape_mask(shape, (height, width), size=size, margin=margin, place=place, transparency=transparency)
    [trigger] = neuron_triggers(
        benign,
        images,
        mask,
        lambda weight, activation: weight,
        count=1,
        units=units,
        reach=reach,
        steps=steps,
        batch_size=batch_size,
        seed=seed,
    )
    poisoned = poison(images, trigger, target=target, rate=rate, seed=seed)
    return dataclasses.replace(poisoned, start=benign)
