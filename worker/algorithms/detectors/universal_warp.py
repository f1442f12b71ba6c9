"""Targeted universal warps: one smooth warp a label that leads most images there, by a pixel at most.

For each label k

    min over ‖s‖∞ ≤ r of the mean of CE(f(x ∘ (id + s)), k),

s the shifts of a few points of the image, interpolated in between. A network that is benign is hardly led anywhere by a
warp of a pixel; one with WaNet's backdoor is led to its target by nearly the attacker's own warp, which Neural Cleanse,
whose triggers are patches, does not see. That a trigger is to be searched in the space where it lives is from UNICORN
(Wang, Mei, Zhai, Ma, ICLR 2023), which searches with networks; a warp as few numbers as WaNet's needs none.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from worker.algorithms.data import Images
from worker.algorithms.detectors.every_label import within
from worker.algorithms.detectors.universal import measured
from worker.algorithms.training import Progress, ignore
from worker.algorithms.warp import Warp, sampled, smooth_fields


@dataclass(frozen=True)
class UniversalWarps:
    """One warp a label: `shifts` (K, 2, G, G) in pixels, in [-radius, radius], and their `grids` (K, H, W, 2).
    `success`: the share of the held-out images of other labels that it leads there, None where there is no such
    image."""

    shifts: Tensor
    grids: Tensor
    success: list[float | None]
    radius: float

    def __getitem__(self, label: int) -> Warp:
        return Warp(self.grids[label])


def universal_warp(
    model: nn.Module,
    images: Images,
    held_out: Images,
    *,
    num_classes: int,
    radius: float = 1.0,
    points: int = 4,
    steps: int = 60,
    batch_size: int = 16,
    seed: int = 0,
    at_once: int | None = None,
    progress: Progress = ignore,
) -> UniversalWarps:
    """Search the warp of every label on clean `images`, and measure each on `held_out`, which it has not seen.

    `model` takes float (N, C, H, W) in [0, 1] to logits; it is not changed. `radius` is r, in pixels, for images of
    about 32 pixels; `points` G a side are shifted. `steps`, `batch_size` and `at_once` are those of
    `every_label.within`, which searches. Images of the label itself do not count. `universal.standing_out` says
    whether one label is far easier than the others.

    On two CIFAR-10 networks (docs/lab-notes.md) a pixel led 93 % of the images to the target of a warp of one pixel on
    average, and at most 14 % to any label of the benign twin; two pixels led 56 % to one of the benign twin too.
    """
    size = images.pixels.shape[-2:]
    shifts = within(
        model,
        images,
        _warped,
        torch.zeros(num_classes, 2, points, points, device=images.pixels.device),
        radius=radius,
        steps=steps,
        batch_size=batch_size,
        seed=seed,
        at_once=at_once,
        progress=progress,
    )
    grids = smooth_fields(shifts, size)
    return UniversalWarps(shifts, grids, measured(model, held_out, map(Warp, grids)), radius)


def _warped(shifts: Tensor, x: Tensor) -> Tensor:
    """shifts (K, 1, 2, G, G) and images (B, C, H, W) to (K, B, C, H, W)."""
    labels, count = len(shifts), len(x)
    grids = smooth_fields(shifts[:, 0], x.shape[-2:])
    each = sampled(x.repeat(labels, 1, 1, 1), grids.repeat_interleave(count, 0))
    return each.view(labels, *x.shape)
