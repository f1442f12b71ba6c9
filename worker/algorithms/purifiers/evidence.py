"""What can be known of a purified network without its trigger: what `auto` chooses by."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from worker.algorithms.aim import Aim, success
from worker.algorithms.data import Images
from worker.algorithms.detectors.neural_cleanse import neural_cleanse
from worker.algorithms.detectors.universal import standing_out, universal_perturbation
from worker.algorithms.metrics import accuracy, logits
from worker.algorithms.triggers import Stamp


@dataclass(frozen=True)
class Suspicion:
    """What the suspect shows before purification: its held-out `accuracy`, and the reversed triggers of the labels that
    Neural Cleanse flags."""

    accuracy: float
    reversed: tuple[Aim[Stamp], ...]


@dataclass(frozen=True)
class Evidence:
    """Of a purified network, on held-out clean images, all fractions.

    `drop` is what it lost of the suspect's accuracy; `surrogate_asr` the highest ASR of the suspect's reversed
    triggers, 0 where there is none; `flagged` the labels that Neural Cleanse flags now; `universal` the success of the
    faint pattern to which one label stands out from the others, 0 where none does.
    """

    drop: float
    surrogate_asr: float
    flagged: list[int]
    universal: float

    @property
    def residue(self) -> float:
        """How much of a backdoor shows, as the ASR that it would have; a flagged label counts as a whole one."""
        return 1.0 if self.flagged else max(self.surrogate_asr, self.universal)


def suspicion(model: nn.Module, clean: Images, held_out: Images, *, steps: int, seed: int) -> Suspicion:
    """Reverse triggers of the suspect on `clean`, and keep those of the flagged labels."""
    found = neural_cleanse(model, clean, num_classes=_classes(model, clean), steps=steps, seed=seed)
    aims = tuple(Aim(found.triggers[label], label) for label in found.anomaly.flagged)
    return Suspicion(_accuracy(model, held_out), aims)


def evidence(
    model: nn.Module, before: Suspicion, clean: Images, held_out: Images, *, steps: int, seed: int
) -> Evidence:
    """Measure a purified `model`. It searches on `clean`, which the model was trained on and is sure of, so it finds a
    little less than on other images; it measures on `held_out`."""
    classes = _classes(model, clean)
    again = neural_cleanse(model, clean, num_classes=classes, steps=steps, seed=seed)
    found = universal_perturbation(model, clean, held_out, num_classes=classes, seed=seed)
    reached = [success(model, held_out, aim) for aim in before.reversed]
    easiest = standing_out(found)
    return Evidence(
        drop=before.accuracy - _accuracy(model, held_out),
        surrogate_asr=max((one.asr for one in reached if one), default=0.0),
        flagged=again.anomaly.flagged,
        universal=(found.success[easiest] or 0.0) if easiest is not None else 0.0,
    )


def _classes(model: nn.Module, images: Images) -> int:
    return logits(model, images.pixels[:1]).shape[1]


def _accuracy(model: nn.Module, images: Images) -> float:
    return accuracy(logits(model, images.pixels).argmax(1), images.labels)
