"""STRIP: a triggered image keeps its label whatever is laid over it (Gao, Xu, Wang, Chen, Ranasinghe, Nepal,
ACSAC 2019).

    H(x) = 1/N Σ_n entropy(f(clip(x + α x_n)))        over N clean images x_n

is low for triggered images; those below a quantile of the clean images' own H are flagged.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worker.algorithms.data import Images, as_float
from worker.algorithms.detectors.every_label import blocks, float_logits, generator
from worker.algorithms.detectors.memory import inputs_at_once
from worker.algorithms.detectors.overlays import any_of, others
from worker.algorithms.folding import TRIED, folded
from worker.algorithms.out_of_memory import halving
from worker.algorithms.training import Progress, between, ignore

BITS = 1.4426950408889634  # of a nat


@dataclass(frozen=True)
class Strip:
    """`entropies` (M,) of the suspicious images and `clean_entropies` (N,), both float32 in bits. `flagged` (M,) bool:
    below `threshold`. `flagged_share` of them; on harmless images it is about the `false_rejection` asked for."""

    entropies: Tensor
    clean_entropies: Tensor
    threshold: float
    flagged: Tensor
    flagged_share: float
    false_rejection: float


def strip(
    model: nn.Module,
    clean: Images,
    suspicious: Images,
    *,
    overlays: int = 64,
    strength: float = 1.0,
    false_rejection: float = 0.05,
    seed: int = 0,
    at_once: int | None = None,
    progress: Progress = ignore,
) -> Strip:
    """Flag the `suspicious` images whose predictions stay certain when clean images are laid over them.

    `model` takes float (N, C, H, W) in [0, 1] to logits; it is not changed. `overlays` clean images
    are added to each image, at `strength` (α) and one at a time: drawn anew for every image, and never the image
    itself. `false_rejection` is the share of the clean images that lies below the threshold. Labels are not looked at.
    `at_once` inputs go through the network at a time (none: as many as fit).

    The sum is the authors'. A mean of the two images halves the contrast of the trigger, and a patch on CIFAR-10 is not
    seen then. Blind to triggers that do not survive the sum (warps, faint patterns over the whole image) and to those
    that need images of one class. Raises `UnusableImages` where there is only one clean image.
    """
    network = folded(model, as_float(clean.pixels[:TRIED])).requires_grad_(False)
    at_once = at_once or inputs_at_once(network, as_float(clean.pixels[0]))
    own = others(len(clean), overlays, generator(seed, 0))
    strange = any_of(len(clean), len(suspicious), overlays, generator(seed, 1))
    done = len(clean) / (len(clean) + len(suspicious))

    def entropies(some: int) -> tuple[Tensor, Tensor]:
        told = between(progress, 0, done), between(progress, done, 1)
        usual = _entropies(network, clean.pixels, clean.pixels, own, strength, some, told[0])
        return usual, _entropies(network, suspicious.pixels, clean.pixels, strange, strength, some, told[1])

    (usual, found), _ = halving(entropies, at_once)
    threshold = usual.quantile(false_rejection)
    flagged = found < threshold
    return Strip(found, usual, float(threshold), flagged, float(flagged.float().mean()), false_rejection)


@torch.no_grad()
def _entropies(
    network: nn.Module,
    tested: Tensor,
    clean: Tensor,
    drawn: Tensor,
    strength: float,
    at_once: int,
    progress: Progress,
) -> Tensor:
    """The mean entropy (M,) in bits of the predictions for each of the images `tested` (M, C, H, W) under the clean
    images `drawn` (M, overlays) for it."""
    means, drawn = torch.zeros(len(tested), device=tested.device), drawn.to(tested.device)
    for rows, columns in blocks(len(drawn), drawn.shape[1], at_once):
        x, over = as_float(tested[rows])[:, None], as_float(clean[drawn[rows, columns]])
        chances = F.log_softmax(float_logits(network, (x + strength * over).clamp(0, 1)), dim=2)
        means[rows] -= BITS * (chances.exp() * chances).sum((1, 2)) / drawn.shape[1]
        progress(min(rows.stop, len(drawn)) / len(drawn))
    return means
