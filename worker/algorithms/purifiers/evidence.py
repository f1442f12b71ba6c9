"""What can be known of a purified network without its trigger: what `auto` chooses by."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from worker.algorithms.aim import Aim, success
from worker.algorithms.data import Images
from worker.algorithms.detectors.suspected import Put, suspected
from worker.algorithms.metrics import accuracy, logits
from worker.algorithms.training import Progress, ignore
from worker.algorithms.triggers import Stamp


@dataclass(frozen=True)
class Suspicion:
    """What the suspect shows before purification: its held-out `accuracy`, and the triggers that it seems to answer
    to."""

    accuracy: float
    reversed: Sequence[Aim[Put]]


@dataclass(frozen=True)
class Evidence:
    """Of a purified network, on held-out clean images, all fractions.

    `drop` is what it lost of the suspect's accuracy; `surrogate_asr` the highest ASR of the triggers reversed on the
    suspect, 0 where there was none; `own` are the triggers that it seems to answer to itself, none: they were not
    searched, and `own_asr` the highest ASR of those, 0 where there is none.
    """

    drop: float
    surrogate_asr: float
    own: Sequence[Aim[Stamp]] | None = None
    own_asr: float = 0.0

    @property
    def residue(self) -> float:
        """How much of a backdoor shows: the highest ASR of the triggers that can be found. At least so much, where the
        network's own were not searched."""
        return max(self.surrogate_asr, self.own_asr)


def suspicion(
    model: nn.Module, clean: Images, held_out: Images, *, steps: int, seed: int, progress: Progress = ignore
) -> Suspicion:
    """Search the suspect's triggers, of all kinds, on `clean`."""
    found, _ = suspected(model, clean, held_out, steps=steps, seed=seed, progress=progress)
    return Suspicion(_accuracy(model, held_out), found)


def evidence(model: nn.Module, before: Suspicion, held_out: Images) -> Evidence:
    """What can be known of a purified `model` without a search."""
    drop = before.accuracy - _accuracy(model, held_out)
    return Evidence(drop, _highest_asr(model, held_out, before.reversed))


def searched(
    found: Evidence,
    model: nn.Module,
    clean: Images,
    held_out: Images,
    *,
    steps: int,
    seed: int,
    progress: Progress = ignore,
) -> Evidence:
    """`found`, and what the purified `model` answers to itself. It searches on `clean`, which the model was trained on
    and is sure of, so it finds a little less than on other images; it measures on `held_out`."""
    own, _ = suspected(model, clean, held_out, steps=steps, seed=seed, progress=progress)
    return dataclasses.replace(found, own=own, own_asr=_highest_asr(model, held_out, own))


def _highest_asr(model: nn.Module, held_out: Images, aims: Sequence[Aim[Stamp]]) -> float:
    reached = [success(model, held_out, aim) for aim in aims]
    return max((one.asr for one in reached if one), default=0.0)


def _accuracy(model: nn.Module, images: Images) -> float:
    return accuracy(logits(model, images.pixels).argmax(1), images.labels)
