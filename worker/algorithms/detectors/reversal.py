"""Trigger reversal: the smallest mask and pattern that lead to a label, for all labels at once (Wang et al., 2019)."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from worker.algorithms.data import Images, as_float
from worker.algorithms.detectors.every_label import batches, generator, slopes
from worker.algorithms.detectors.memory import inputs_at_once
from worker.algorithms.folding import TRIED, folded
from worker.algorithms.out_of_memory import halving
from worker.algorithms.training import Progress, ignore
from worker.algorithms.triggers import Trigger, blend

WINDOW = 10  # steps between two looks at the attack success, and so between two changes of the costs


@dataclass(frozen=True)
class ReversedTriggers:
    """One trigger a label: `masks` (K, 1, H, W) and `patterns` (K, C, H, W) in [0, 1]; `norms` (K,), the L1 norms of
    the masks in pixels; `reached` (K,) bool, whether the trigger ever flipped the demanded share of images. A
    label that was not reached has the norm of a full mask, H · W: no small trigger was found."""

    masks: Tensor
    patterns: Tensor
    norms: Tensor
    reached: Tensor

    def __getitem__(self, label: int) -> Trigger:
        return Trigger(self.masks[label], self.patterns[label])

    def smaller(self, other: ReversedTriggers) -> ReversedTriggers:
        """Label by label the trigger with the smaller norm, of those that reached their label."""
        better = other.reached & (other.norms < self.norms)
        return ReversedTriggers(
            torch.where(better[:, None, None, None], other.masks, self.masks),
            torch.where(better[:, None, None, None], other.patterns, self.patterns),
            torch.where(better, other.norms, self.norms),
            self.reached | other.reached,
        )


def reverse_triggers(
    model: nn.Module,
    images: Images,
    labels: Sequence[int],
    *,
    steps: int,
    batch_size: int,
    lr: float,
    asr_threshold: float,
    initial_cost: float,
    cost_multiplier: float,
    seed: int,
    at_once: int | None = None,
    progress: Progress = ignore,
) -> ReversedTriggers:
    """min over (m, p) of CE(f((1 - m) x + m p), label) + cost · ‖m‖₁, for K `labels` at once (the paper's eq. 2 and 3).

    One batch of clean images serves all labels: K · batch_size inputs a step, which go through the network `at_once`
    at a time (where it is None, as many as fit). That number changes nothing but the rounding of sums. The labels stay
    independent: the sum of their losses has no term in common, Adam works element by element, and start and
    batches follow from the seed and the label alone, so a label gives the same alone as among others. Masks and
    patterns are tanh of free variables, as in the authors' code. Images of the label itself do not count: they would
    be free successes.

    Each label has its own cost: every `WINDOW` steps it is multiplied by `cost_multiplier` where the attack success
    over the window was at least `asr_threshold`, and divided by its 1.5th power where not. The result is the smallest
    mask at the end of a successful window. Differs from the authors' code in the fixed number of steps (early stops
    make the norms of labels incomparable) and in starting at a small cost instead of zero.

    The model is left as it is: a copy in evaluation mode with frozen weights and folded batch norms does the work. The
    host never waits for the device.
    """
    device = images.pixels.device
    targets = torch.tensor(labels, device=device)
    free = _start(images, labels, seed).requires_grad_()
    optimizer = torch.optim.Adam([free], lr=lr, betas=(0.5, 0.9))
    cost = torch.full((len(labels),), initial_cost, device=device)
    best = _nothing_found(free)
    network = folded(model, as_float(images.pixels[:TRIED])).requires_grad_(False)
    at_once = at_once or inputs_at_once(network, as_float(images.pixels[0]))
    windows = batches(len(images), steps, batch_size, seed).to(device).split(WINDOW)  # type: ignore[no-untyped-call]
    for number, window in enumerate(windows, start=1):
        hits, tries = torch.zeros(2, len(labels), device=device)
        for batch in window:
            values = _squash(free)
            counts = (images.labels[batch] != targets[:, None]).float()
            x = as_float(images.pixels[batch])
            step = functools.partial(slopes, network, _put, values.detach(), targets, x, counts)
            (slope, hit), at_once = halving(step, at_once)
            slope[:, 0] += cost[:, None, None]  # the slope of cost · ‖m‖₁
            optimizer.zero_grad()
            values.backward(slope)  # type: ignore[no-untyped-call]
            optimizer.step()
            hits += hit
            tries += counts.sum(1)
        success = (hits >= asr_threshold * tries) & (tries > 0)
        best = best.smaller(_as_triggers(values.detach(), success))
        cost *= torch.where(success, cost_multiplier, cost_multiplier**-1.5)
        progress(number / len(windows))
    return best


def _put(values: Tensor, x: Tensor) -> Tensor:
    """Masks and patterns (K, 1, 1 + C, H, W) on images (B, C, H, W)."""
    return blend(x, values[:, :, :1], values[:, :, 1:])


def _start(images: Images, labels: Sequence[int], seed: int) -> Tensor:
    """(K, 1 + C, H, W): half a mask everywhere, and random patterns, each from a generator of its own."""
    free = torch.zeros(len(labels), 1 + images.pixels.shape[1], *images.pixels.shape[2:])
    for start, label in zip(free, labels, strict=True):
        start[1:] = torch.randn(start[1:].shape, generator=generator(seed, 1 + label))
    return free.to(images.pixels.device)


def _squash(free: Tensor) -> Tensor:
    return torch.tanh(free) / 2 + 0.5


def _nothing_found(free: Tensor) -> ReversedTriggers:
    values = torch.cat([torch.ones_like(free[:, :1]), _squash(free[:, 1:])], dim=1).detach()
    return _as_triggers(values, torch.zeros(len(values), dtype=torch.bool, device=values.device))


def _as_triggers(values: Tensor, reached: Tensor) -> ReversedTriggers:
    masks, patterns = values[:, :1], values[:, 1:]
    return ReversedTriggers(masks, patterns, masks.sum((1, 2, 3)), reached)
