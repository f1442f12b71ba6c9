"""Targeted universal perturbations: one faint pattern a label that leads most images there.

Universal perturbations are those of Moosavi-Dezfooli et al. (CVPR 2017), found by the gradient of the loss over batches
of images (Shafahi et al., AAAI 2020); for each label k

    min over ‖δ‖∞ ≤ ε of the mean of CE(f(clip(x + δ)), k).

Every network has some. A backdoor is a short way to its target, so its label is easier than the others; after
purification it should be no more so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor, nn

from worker.algorithms.aim import Aim, success
from worker.algorithms.data import Images, as_float
from worker.algorithms.detectors.every_label import batches, slopes
from worker.algorithms.detectors.memory import inputs_at_once
from worker.algorithms.detectors.neural_cleanse import images_a_step
from worker.algorithms.folding import folded
from worker.algorithms.notes import Note
from worker.algorithms.training import Progress, ignore

TRIED = 16  # images that show whether the folded network is the same
FIRST_STEP = 0.25  # of the radius; it falls linearly to nothing
OUTLIER = 2.0  # times the median of the other labels: an easiest label that stands out
EASY = 0.25  # share of images; below it no label is easy, and which one comes first is chance
EASIER = 0.25  # more of the images than before purification


@dataclass(frozen=True)
class Shift:
    """`delta` (C, H, W) is added to an image in [0, 1], and the sum clipped."""

    delta: Tensor

    def stamp(self, pixels: Tensor) -> Tensor:
        """uint8 (N, C, H, W) to the same, shifted, and rounded as a real image file would be."""
        shifted = _shifted(self.delta.to(pixels.device), as_float(pixels))
        return shifted.mul(255).round_().to(torch.uint8)


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

    `model` takes float (N, C, H, W) in [0, 1] to logits; it is not changed. `radius` is ε, of images in [0, 1]. A step
    goes against the sign of the gradient over one batch, which serves all labels; the length of the steps falls from a
    quarter of the radius to nothing. Images of the label itself do not count. `at_once` inputs go through the network
    at a time (none: as many as fit), which changes nothing but the rounding of sums. The host never waits for the
    device while searching.

    Differs from the papers: targeted, all labels at once, the loss is not capped, and the steps are of signs. A small
    opaque patch is no faint pattern: its label need not stand out (on a CIFAR-10 network with a patch of 3×3 it does
    not), so that silence here proves nothing.
    """
    device = images.pixels.device
    targets = torch.arange(num_classes, device=device)
    deltas = torch.zeros(num_classes, *images.pixels.shape[1:], device=device)
    network = folded(model, as_float(images.pixels[:TRIED])).requires_grad_(False)
    at_once = at_once or inputs_at_once(network, as_float(images.pixels[0]))
    drawn = batches(len(images), steps, images_a_step(batch_size, num_classes), seed).to(device)
    for number, batch in enumerate(drawn):
        counts = (images.labels[batch] != targets[:, None]).float()
        slope, _ = slopes(network, _shifted, deltas, targets, as_float(images.pixels[batch]), counts, at_once)
        length = FIRST_STEP * radius * (1 - number / steps)
        deltas = (deltas - length * slope.sign()).clamp_(-radius, radius)
        progress((number + 1) / steps)
    reached = [success(model, held_out, Aim(Shift(delta), label)) for label, delta in enumerate(deltas)]
    return UniversalPerturbations(deltas, [each.asr if each else None for each in reached], radius)


def standing_out(found: UniversalPerturbations) -> int | None:
    """The label of the highest success, where that is easy and stands out from the others; else none."""
    measured = {label: share for label, share in enumerate(found.success) if share is not None}
    if len(measured) < 2:
        return None
    easiest = max(measured, key=lambda label: measured[label])
    others = median(share for label, share in measured.items() if label != easiest)
    return easiest if measured[easiest] >= max(EASY, OUTLIER * others) else None


def notes(before: UniversalPerturbations, after: UniversalPerturbations, flagged: Sequence[int]) -> list[Note]:
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


def _shifted(deltas: Tensor, x: Tensor) -> Tensor:
    return (x + deltas).clamp(0, 1)


def _percent(share: float | None) -> str:
    return "none" if share is None else f"{100 * share:.0f} %"
