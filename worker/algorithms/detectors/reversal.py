"""Trigger reversal: the smallest mask and pattern that lead to a label, for all labels at once (Wang et al., 2019)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worker.algorithms.data import Images, as_float
from worker.algorithms.detectors.memory import inputs_at_once
from worker.algorithms.folding import folded
from worker.algorithms.precision import autocast
from worker.algorithms.training import Progress, ignore
from worker.algorithms.triggers import Trigger, blend

WINDOW = 10  # steps between two looks at the attack success, and so between two changes of the costs
TRIED = 16  # images that show whether the folded network is the same


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
    windows = _batches(len(images), steps, batch_size, seed).to(device).split(WINDOW)  # type: ignore[no-untyped-call]
    for number, window in enumerate(windows, start=1):
        hits, tries = torch.zeros(2, len(labels), device=device)
        for batch in window:
            values = _squash(free)
            counts = (images.labels[batch] != targets[:, None]).float()
            x = as_float(images.pixels[batch])
            slopes, hit = _slopes(network, values.detach(), targets, x, counts, at_once)
            slopes[:, 0] += cost[:, None, None]  # the slope of cost · ‖m‖₁
            optimizer.zero_grad()
            values.backward(slopes)  # type: ignore[no-untyped-call]
            optimizer.step()
            hits += hit
            tries += counts.sum(1)
        success = (hits >= asr_threshold * tries) & (tries > 0)
        best = best.smaller(_as_triggers(values.detach(), success))
        cost *= torch.where(success, cost_multiplier, cost_multiplier**-1.5)
        progress(number / len(windows))
    return best


def _slopes(
    model: nn.Module, values: Tensor, targets: Tensor, x: Tensor, counts: Tensor, at_once: int
) -> tuple[Tensor, Tensor]:
    """The gradient of each label's mean cross-entropy by its mask and pattern (K, 1 + C, H, W), and the inputs (K,)
    that were led to it.

    `counts` (K, B) is 1 for the images that count for a label. The inputs are cut into blocks of some labels by some
    images, forward and backward one after the other, so that memory holds one block.
    """
    slopes, hits = torch.zeros_like(values), torch.zeros_like(counts[:, 0])
    weights = counts / counts.sum(1, keepdim=True).clamp(min=1)
    for rows, columns in _blocks(len(targets), len(x), at_once):
        block, weight = values[rows].requires_grad_(), weights[rows, columns]
        logits = _logits(model, blend(x[columns], block[:, None, :1], block[:, None, 1:]))
        wanted = targets[rows, None].expand(weight.shape)
        losses = F.cross_entropy(logits.flatten(0, 1), wanted.flatten(), reduction="none").view_as(weight)
        slopes[rows] += torch.autograd.grad((losses * weight).sum(), block)[0]
        hits[rows] += ((logits.argmax(2) == wanted) & (weight > 0)).sum(1)
    return slopes, hits


def _blocks(labels: int, images: int, at_once: int) -> Iterator[tuple[slice, slice]]:
    """Some labels and some images at a time, at most `at_once` pairs: all images of a label together where they fit."""
    rows, columns = max(1, at_once // images), min(images, at_once)
    for row in range(0, labels, rows):
        for column in range(0, images, columns):
            yield slice(row, row + rows), slice(column, column + columns)


def _start(images: Images, labels: Sequence[int], seed: int) -> Tensor:
    """(K, 1 + C, H, W): half a mask everywhere, and random patterns, each from a generator of its own."""
    free = torch.zeros(len(labels), 1 + images.pixels.shape[1], *images.pixels.shape[2:])
    for start, label in zip(free, labels, strict=True):
        start[1:] = torch.randn(start[1:].shape, generator=_generator(seed, 1 + label))
    return free.to(images.pixels.device)


def _batches(count: int, steps: int, batch_size: int, seed: int) -> Tensor:
    """(steps, batch_size) places of images, drawn with replacement."""
    return torch.randint(count, (steps, batch_size), generator=_generator(seed, 0))


def _generator(*entropy: int) -> torch.Generator:
    return torch.Generator().manual_seed(int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0]))


def _squash(free: Tensor) -> Tensor:
    return torch.tanh(free) / 2 + 0.5


def _logits(model: nn.Module, x: Tensor) -> Tensor:
    """(K, B, C, H, W) to float32 logits (K, B, classes)."""
    labels, batch = x.shape[:2]
    with autocast(x.device):
        logits = model(x.flatten(0, 1).contiguous(memory_format=torch.channels_last))
    return logits.float().view(labels, batch, -1)  # type: ignore[no-any-return]


def _nothing_found(free: Tensor) -> ReversedTriggers:
    values = torch.cat([torch.ones_like(free[:, :1]), _squash(free[:, 1:])], dim=1).detach()
    return _as_triggers(values, torch.zeros(len(values), dtype=torch.bool, device=values.device))


def _as_triggers(values: Tensor, reached: Tensor) -> ReversedTriggers:
    masks, patterns = values[:, :1], values[:, 1:]
    return ReversedTriggers(masks, patterns, masks.sum((1, 2, 3)), reached)
