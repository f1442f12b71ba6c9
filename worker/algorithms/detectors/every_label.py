"""Something put on images for each of many labels, and how it has to change to lead there: all labels at once."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worker.algorithms.data import Images, as_float
from worker.algorithms.detectors.memory import inputs_at_once
from worker.algorithms.folding import TRIED, folded
from worker.algorithms.out_of_memory import halving
from worker.algorithms.precision import autocast
from worker.algorithms.training import Progress

MANY = 12  # labels; of more, each gets fewer images a step, so that a step takes no more inputs,
FEWEST_IMAGES = 8  # as long as it gets so many
FIRST_STEP = 0.25  # of the radius

Put = Callable[[Tensor, Tensor], Tensor]
"""(values (K, 1, ...), x (B, C, H, W)) to inputs (K, B, C, H, W): each label's values on each image."""


def slopes(
    network: nn.Module, put: Put, values: Tensor, targets: Tensor, x: Tensor, counts: Tensor, at_once: int
) -> tuple[Tensor, Tensor]:
    """The gradient of each label's mean cross-entropy by its `values` (K, ...), and the inputs (K,) that were led
    to it.

    `targets` (K,) are the labels, `counts` (K, B) is 1 for the images x (B, C, H, W) that count for a label. The inputs
    are cut into blocks of some labels by some images, forward and backward one after the other, so that memory holds
    one block of at most `at_once` inputs.
    """
    found, hits = torch.zeros_like(values), torch.zeros_like(counts[:, 0])
    weights = counts / counts.sum(1, keepdim=True).clamp(min=1)
    for rows, columns in blocks(len(targets), len(x), at_once):
        block, weight = values[rows].requires_grad_(), weights[rows, columns]
        predicted = float_logits(network, put(block[:, None], x[columns]))
        wanted = targets[rows, None].expand(weight.shape)
        losses = F.cross_entropy(predicted.flatten(0, 1), wanted.flatten(), reduction="none").view_as(weight)
        found[rows] += torch.autograd.grad((losses * weight).sum(), block)[0]
        hits[rows] += ((predicted.argmax(2) == wanted) & (weight > 0)).sum(1)
    return found, hits


def within(
    model: nn.Module,
    images: Images,
    put: Put,
    start: Tensor,
    *,
    radius: float,
    steps: int,
    batch_size: int,
    seed: int,
    at_once: int | None,
    progress: Progress,
) -> Tensor:
    """For each label the values (K, ...) in [-`radius`, `radius`] that lead most of the `images` of other labels to it,
    from `start` (K, ...) on.

    A step goes against the sign of the gradient over one batch of `batch_size` images, which serves all labels (with
    many of them there are fewer, see `images_a_step`); the length of the steps falls from a quarter of the radius to
    nothing. `at_once` inputs go through the network at a time (none: as many as fit), which changes nothing but the
    rounding of sums. The host never waits for the device.
    """
    network = folded(model, as_float(images.pixels[:TRIED])).requires_grad_(False)
    at_once = at_once or inputs_at_once(network, as_float(images.pixels[0]))
    targets, values = torch.arange(len(start), device=start.device), start
    drawn = batches(len(images), steps, images_a_step(batch_size, len(start)), seed).to(start.device)
    for number, batch in enumerate(drawn):
        counts = (images.labels[batch] != targets[:, None]).float()
        step = functools.partial(slopes, network, put, values, targets, as_float(images.pixels[batch]), counts)
        (slope, _), at_once = halving(step, at_once)
        length = FIRST_STEP * radius * (1 - number / steps)
        values = (values - length * slope.sign()).clamp_(-radius, radius)
        progress((number + 1) / steps)
    return values


def images_a_step(batch_size: int, num_classes: int) -> int:
    """Clean images a step for each label: what `MANY` labels would share, at least `FEWEST_IMAGES`, at most
    `batch_size`."""
    return min(batch_size, max(FEWEST_IMAGES, batch_size * MANY // num_classes))


def float_logits(network: nn.Module, x: Tensor) -> Tensor:
    """(K, B, C, H, W) to float32 logits (K, B, classes), in the number format of the device."""
    rows, columns = x.shape[:2]
    with autocast(x.device):
        predicted = network(x.flatten(0, 1).contiguous(memory_format=torch.channels_last))
    return predicted.float().view(rows, columns, -1)  # type: ignore[no-any-return]


def blocks(rows: int, columns: int, at_once: int) -> Iterator[tuple[slice, slice]]:
    """Some rows and some columns at a time, at most `at_once` pairs: all columns of a row together where they fit."""
    some, each = max(1, at_once // columns), min(columns, at_once)
    for row in range(0, rows, some):
        for column in range(0, columns, each):
            yield slice(row, row + some), slice(column, column + each)


def batches(count: int, steps: int, batch_size: int, seed: int) -> Tensor:
    """(steps, batch_size) places of images, drawn with replacement."""
    return torch.randint(count, (steps, batch_size), generator=generator(seed, 0))


def generator(*entropy: int) -> torch.Generator:
    """A generator of its own for any numbers: close numbers give unrelated ones."""
    return torch.Generator().manual_seed(int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0]))
