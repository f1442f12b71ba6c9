"""What can be known of a purified network without its trigger: what `auto` chooses by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from worker.algorithms.aim import Aim, success
from worker.algorithms.data import Images
from worker.algorithms.detectors.suspected import suspected
from worker.algorithms.metrics import accuracy, logits
from worker.algorithms.training import Progress, ignore
from worker.algorithms.triggers import Stamp


@dataclass(frozen=True)
class Suspicion:
    """What the suspect shows before purification: its held-out `accuracy`, and the triggers that it seems to answer
    to."""

    accuracy: float
    reversed: Sequence[Aim[Stamp]]


@dataclass(frozen=True)
class Evidence:
    """Of a purified network, on held-out clean images, all fractions.

    `drop` is what it lost of the suspect's accuracy; `surrogate_asr` the highest ASR of the triggers reversed on the
    suspect, 0 where there was none; `flagged` the labels for which it seems to answer to a trigger itself, and
    `flagged_asr` the highest ASR of those, 0 where there is none.
    """

    drop: float
    surrogate_asr: float
    flagged: list[int]
    flagged_asr: float

    @property
    def residue(self) -> float:
        """How much of a backdoor shows: the highest ASR of the triggers that can be found."""
        return max(self.surrogate_asr, self.flagged_asr)


def suspicion(
    model: nn.Module, clean: Images, held_out: Images, *, steps: int, seed: int, progress: Progress = ignore
) -> Suspicion:
    """Search the suspect's triggers, of all kinds, on `clean`."""
    found, _ = suspected(model, clean, held_out, steps=steps, seed=seed, progress=progress)
    return Suspicion(_accuracy(model, held_out), found)


def evidence(
    model: nn.Module,
    before: Suspicion,
    clean: Images,
    held_out: Images,
    *,
    steps: int,
    seed: int,
    progress: Progress = ignore,
) -> Evidence:
    """Measure a purified `model`. It searches on `clean`, which the model was trained on and is sure of, so it finds a
    little less than on other images; it measures on `held_out`."""
    again, _ = suspected(model, clean, held_out, steps=steps, seed=seed, progress=progress)
    return Evidence(
        drop=before.accuracy - _accuracy(model, held_out),
        surrogate_asr=_highest_asr(model, held_out, before.reversed),
        flagged=sorted({aim.target for aim in again}),
        flagged_asr=_highest_asr(model, held_out, again),
    )


def _highest_asr(model: nn.Module, held_out: Images, aims: Sequence[Aim[Stamp]]) -> float:
    reached = [success(model, held_out, aim) for aim in aims]
    return max((one.asr for one in reached if one), default=0.0)


def _accuracy(model: nn.Module, images: Images) -> float:
    return accuracy(logits(model, images.pixels).argmax(1), images.labels)
