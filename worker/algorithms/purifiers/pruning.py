"""Pruning: the first half of Fine-Pruning (Liu, Dolan-Gavitt, Garg, RAID 2018).

A backdoor has neurons of its own, which sleep on clean images. So the channels of the last convolutional stage are
pruned in the order of their mean activation on clean images, the least active first, as long as the accuracy on
held-out images stays.
"""

from __future__ import annotations

import copy
import math

from torch import nn

from worker.algorithms.checkpoint import Checkpoint, Keep, keep_nothing
from worker.algorithms.data import Images, as_float
from worker.algorithms.purifiers.channels import Zeros, as_far_as_accuracy_allows, notes_on, with_zeros
from worker.algorithms.purifiers.last_stage import activity, features_of, find_last_stage, logits_without
from worker.algorithms.purifiers.purified import Purified
from worker.algorithms.taps import PROBED
from worker.algorithms.training import Progress, ignore

STEPS = 100  # about: a hundredth of the channels in each, or one
TOO_DEAR = "already the least active channels cost more accuracy on held-out images than `max_drop` allows"


def pruning(
    model: nn.Module,
    clean: Images,
    held_out: Images,
    *,
    max_drop: float = 0.05,
    seed: int = 0,
    progress: Progress = ignore,
    resume: Checkpoint | None = None,
    checkpoint: Keep = keep_nothing,
) -> Purified:
    """Prune the channels of the last stage of `model` that are least active on `clean`, one after the other; the last
    state before `held_out` loses `max_drop` of its accuracy (a fraction in [0, 1]) is the result.

    `model` takes float (N, C, H, W) in [0, 1] to logits; it is not changed. Nothing here is random, whatever the
    `seed`, and nothing takes long: there are no checkpoints, and it begins anew. Where nothing was pruned a note says
    so.

    Differs from the paper in the steps, of a hundredth of the channels where there are many; and in where the zeros are
    (`last_stage`), which makes no difference to the paper's networks without shortcuts. Five points are what the SAGE
    paper (IEEE S&P 2023) allows its baselines.

    Look at the accuracy of each class: where the target's own channels are the ones that sleep, the backdoor goes with
    the class, and fine-tuning brings back both.

    Raises `UnfitNetwork` for a network without maps.
    """
    zeros, chosen, history = dormant(model, clean, held_out, max_drop=max_drop, progress=progress)
    return Purified(with_zeros(model, zeros), history, chosen, notes=notes_on(chosen, TOO_DEAR))


def dormant(
    model: nn.Module, clean: Images, held_out: Images, *, max_drop: float, progress: Progress
) -> tuple[Zeros, int, list[dict[str, float]]]:
    """The zeros that `pruning` puts into `model`, the number of the step that they are from, and all steps."""
    suspect = copy.deepcopy(model).eval()
    stage = find_last_stage(suspect, as_float(clean.pixels[:PROBED]))
    rank = activity(stage, features_of(suspect, stage, clean.pixels)).argsort(stable=True).argsort()
    counts = range(0, stage.channels, math.ceil(stage.channels / STEPS))
    features = features_of(suspect, stage, held_out.pixels)
    chosen, history = as_far_as_accuracy_allows(
        [{"pruned": float(count)} for count in counts[1:]],
        lambda step: logits_without(suspect, stage, features, rank < counts[step], held_out.pixels[0]),
        held_out.labels,
        max_drop=max_drop,
        progress=progress,
    )
    return stage.zeros(rank < counts[chosen]), chosen, history
