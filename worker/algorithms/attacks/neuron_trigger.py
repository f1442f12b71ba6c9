"""Triggers made for a trained network: pixels that drive a few of its neurons to a value that no clean image reaches.

TrojanNN (Liu, Ma, Aafer, Lee, Zhai, Wang, Zhang, NDSS 2018, "Trojaning Attack on Neural Networks") searches them by
gradient: over the pixels t under a mask m,

    min  E_x Σ_u (g_u - a_u(x'))²,    x' = (1 - m) x + m t,

where a_u is a neuron chosen beforehand and g_u the value that it is to reach. RobNet differs in the choice. Retraining
then needs to change little: it ties a strong internal signal to the target label.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from worker.algorithms.data import Images, as_float
from worker.algorithms.errors import UnfitOptions
from worker.algorithms.features import features, find_head, penultimate
from worker.algorithms.folding import TRIED, folded
from worker.algorithms.precision import autocast
from worker.algorithms.triggers import Trigger, blend

LR = 0.05  # of Adam, on pixels in [0, 1]
SURVEYED = 512  # images that show what is usual for a unit

Score = Callable[[Tensor, Tensor], Tensor]
"""(weight (D,), activation (D,)) to a score (D,): how well a unit serves. `weight` sums the absolute weights from a
unit to all logits, `activation` is the mean of its absolute value on clean images."""

Penalty = Callable[[Tensor, Tensor], Tensor]
"""(clean, stamped), both float (N, C, H, W) in [0, 1], to a scalar that the search adds to its loss."""


def free(clean: Tensor, stamped: Tensor) -> Tensor:
    """No penalty."""
    return clean.new_zeros(())


def neuron_triggers(
    benign: nn.Module,
    images: Images,
    mask: Tensor,
    score: Score,
    *,
    count: int,
    units: int,
    reach: float,
    steps: int,
    batch_size: int,
    seed: int,
    penalty: Penalty = free,
) -> list[Trigger]:
    """`count` triggers under one `mask` (1, H, W) in [0, 1], each with `units` units of the penultimate layer to drive:
    those of the highest score for the first trigger, the next ones for the second.

    A unit's goal is `reach` times its largest absolute value on clean images; each term of the loss is divided by g_u².
    `images` are of the network's training, on its device. Pixels outside of the mask are 0 in the pattern. The network
    is not changed: a copy in evaluation mode with frozen weights does the work.

    Differs from the paper in searching on batches of real images, not on one black canvas, where most units of a
    network with ReLU are dead; in starting at noise for the same reason; and in a goal relative to what is usual in the
    network, instead of the number 100 in all networks. Units that are zero for all images are not chosen: they
    have no gradient. Raises `UnfitOptions` where fewer units are left than asked for, `UnknownTap` for a network
    without a penultimate layer.
    """
    pixels = images.pixels
    network = folded(benign, as_float(pixels[:TRIED])).requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    surveyed = pixels[torch.randperm(len(pixels), generator=generator)[:SURVEYED]]
    ranked, usual = _ranked(network, surveyed, score)
    if len(ranked) < count * units:
        raise UnfitOptions(
            f"{count} triggers with {units} units each: the penultimate layer has {len(ranked)} that are ever active",
            "Ask for fewer units or fewer triggers.",
        )
    mask = mask.to(pixels.device)
    batches = torch.randint(len(pixels), (steps, batch_size), generator=generator).to(pixels.device)
    return [
        Trigger(mask, _ascend(network, pixels, mask, chosen, reach * usual[chosen], penalty, batches, generator))
        for chosen in ranked[: count * units].view(count, units)
    ]


def _ranked(network: nn.Module, pixels: Tensor, score: Score) -> tuple[Tensor, Tensor]:
    """The units that are ever active, the best first, and the largest absolute value (D,) of each unit on `pixels`."""
    activations = features(network, pixels).abs()
    weight = network.get_submodule(find_head(network, as_float(pixels[:TRIED]))).weight
    assert isinstance(weight, Tensor)  # noqa: S101 - else it would be no head
    outgoing = weight.abs().transpose(0, 1).flatten(1).sum(1)
    largest = activations.amax(0)
    order = score(outgoing, activations.mean(0)).argsort(descending=True, stable=True)
    return order[largest[order] > 0], largest


def _ascend(
    network: nn.Module,
    pixels: Tensor,
    mask: Tensor,
    chosen: Tensor,
    goals: Tensor,
    penalty: Penalty,
    batches: Tensor,
    generator: torch.Generator,
) -> Tensor:
    """A pattern (C, H, W) with which the `chosen` units (U,) are as near to their `goals` (U,) as the steps bring them.

    Pixels are kept in [0, 1] by clamping after each step: under a sigmoid a pixel at 0 or 1 would have no gradient.
    """
    noise = torch.rand(pixels.shape[1:], generator=generator).to(pixels.device)
    pattern = (noise * (mask > 0)).requires_grad_()
    optimizer = torch.optim.Adam([pattern], lr=LR)
    for batch in batches:
        clean = as_float(pixels[batch])
        x = blend(clean, mask, pattern)
        with autocast(pixels.device):
            activations = penultimate(network, x.contiguous(memory_format=torch.channels_last))
        loss = (1 - activations[:, chosen] / goals).square().sum(1).mean() + penalty(clean, x)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        with torch.no_grad():
            pattern.clamp_(0, 1)
    return pattern.detach()
