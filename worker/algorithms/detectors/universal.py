"""Targeted universal perturbations: one faint pattern a label that leads most images there.

Universal perturbations are those of Moosavi-Dezfooli et al. (CVPR 2017), found by the gradient of the loss over batches
of images (Shafahi et al., AAAI 2020); for each label k

    min over ‖δ‖∞ ≤ ε of the mean of CE(f(clip(x + δ)), k).

Every network has some. A backdoor is a short way to its target, so its label is easier than the others; after
purification it should be no more so.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Protocol

import torch
from torch import Tensor, nn

from worker.algorithms.aim import Aim, success
from worker.algorithms.data import Images, as_float
from worker.algorithms.detectors.every_label import within
from worker.algorithms.notes import Note
from worker.algorithms.training import Progress, ignore
from worker.algorithms.triggers import Stamp

OUTLIER = 3.0  # times the median of the other labels: an easiest label that stands out
EASY = 0.25  # share of images; below it no label is easy, and which one comes first is chance
EASIER = 0.25  # more of the images than before purification


class Measured(Protocol):
    """Whatever has the success of one perturbation a label."""

    @property
    def success(self) -> Sequence[float | None]: ...


@dataclass(frozen=True)
class Shift:
    """`delta` (C, H, W) is added to an image in [0, 1], and the sum clipped."""

    delta: Tensor

    def put(self, x: Tensor) -> Tensor:
        """float (N, C, H, W) in [0, 1] to the same, shifted."""
        return shifted(self.delta.to(x.device), x)

    def stamp(self, pixels: Tensor) -> Tensor:
        """uint8 (N, C, H, W) to the same, shifted, and rounded as a real image file would be."""
        return self.put(as_float(pixels)).mul(255).round_().to(torch.uint8)


@dataclass(frozen=True)
class UniversalPerturbations:
    """One perturbation a label: `deltas` (K, C, H, W) in [-radius, radius]. `success`: the share of the held-out images
    of other labels that it leads there, None where there is no such image."""

    deltas: Tensor
    success: list[float | None]
    radius: float

    def __getitem__(self, label: int) -> Shift:
        return Shift(self.deltas[label])


def universal_perturbation(
    model: nn.Module,
    images: Images,
    held_out: Images,
    *,
    num_classes: int,
    radius: float = 8 / 255,
    steps: int = 100,
    batch_size: int = 16,
    seed: int = 0,
    at_once: int | None = None,
    progress: Progress = ignore,
) -> UniversalPerturbations:
    """Search the perturbation of every label on clean `images`, and measure each on `held_out`, which it has not seen.

    `model` takes float (N, C, H, W) in [0, 1] to logits; it is not changed. `radius` is ε, of images in [0, 1].
    `steps`, `batch_size` and `at_once` are those of `every_label.within`, which searches. Images of the label itself do
    not count.

    Differs from the papers: targeted, all labels at once, the loss is not capped, and the steps are of signs. A small
    opaque patch is no faint pattern: its label need not stand out (on a CIFAR-10 network with a patch of 3×3 it does
    not), so that silence here proves nothing.
    """
    start = torch.zeros(num_classes, *images.pixels.shape[1:], device=images.pixels.device)
    deltas = within(
        model,
        images,
        shifted,
        start,
        radius=radius,
        steps=steps,
        batch_size=batch_size,
        seed=seed,
        at_once=at_once,
        progress=progress,
    )
    return UniversalPerturbations(deltas, measured(model, held_out, map(Shift, deltas)), radius)


def measured(model: nn.Module, held_out: Images, triggers: Iterable[Stamp]) -> list[float | None]:
    """The share of the held-out images of other labels that the trigger of each label leads there, None where there is
    no such image."""
    found = [success(model, held_out, Aim(trigger, label)) for label, trigger in enumerate(triggers)]
    return [each.asr if each else None for each in found]


def standing_out(found: Measured) -> int | None:
    """The label of the highest success, where that is easy and stands out from the others; else none."""
    measured = {label: share for label, share in enumerate(found.success) if share is not None}
    if len(measured) < 2:
        return None
    easiest = max(measured, key=lambda label: measured[label])
    others = median(share for label, share in measured.items() if label != easiest)
    return easiest if measured[easiest] >= max(EASY, OUTLIER * others) else None


def notes(before: Measured, after: Measured, flagged: Sequence[int]) -> list[Note]:
    """What the perturbations of the suspect (`before`) and of the purified model (`after`) say of the purification;
    `flagged` are the labels that a detector flagged on the suspect."""
    found = []
    easiest = standing_out(after)
    if easiest is not None and easiest in flagged:
        shares = f"{_percent(before.success[easiest])} before, {_percent(after.success[easiest])} after"
        found.append(
            Note(
                "universal_flagged_easiest",
                f"Label {easiest}, flagged on the suspect, is still by far the easiest to reach with one faint pattern "
                f"for all images ({shares}).",
                "The backdoor is probably weakened and not gone. Purify for more epochs, or with another purifier.",
            )
        )
    easier = [
        label
        for label, (old, new) in enumerate(zip(before.success, after.success, strict=True))
        if old is not None and new is not None and new - old >= EASIER
    ]
    if easier:
        told = ", ".join(
            f"{label} ({_percent(before.success[label])} to {_percent(after.success[label])})" for label in easier
        )
        found.append(
            Note(
                "universal_easier",
                f"One faint pattern now leads many more images to label {told}.",
                "Purification left weak decision boundaries: try a lower learning rate or fewer epochs.",
            )
        )
    return found


def shifted(deltas: Tensor, x: Tensor) -> Tensor:
    """x + δ, within [0, 1]."""
    return (x + deltas).clamp(0, 1)


def _percent(share: float | None) -> str:
    return "none" if share is None else f"{100 * share:.0f} %"
