"""What is measured on a model before and after purification. All figures are fractions in [0, 1].

Measurements run in float32, whatever training runs in: a figure is then what anybody gets who loads the file.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from statistics import NormalDist

import torch
from torch import Tensor, nn

from worker.algorithms.data import Images, as_float
from worker.algorithms.out_of_memory import halving

Interval = tuple[float, float]

Z = NormalDist().inv_cdf(0.975)  # all intervals are of 95 %


@torch.no_grad()
def logits(model: nn.Module, pixels: Tensor, *, batch_size: int = 256) -> Tensor:
    """float32 logits (N, K) of uint8 images (N, C, H, W) in evaluation mode. The model's mode is put back. Where the
    memory does not hold `batch_size` images, half as many go through at a time."""
    was_training = model.training
    model.eval()
    found, _ = halving(functools.partial(_logits, model, pixels), batch_size)
    model.train(was_training)
    return found


def _logits(model: nn.Module, pixels: Tensor, at_once: int) -> Tensor:
    parts = []
    for part in torch.split(pixels, at_once):
        x = as_float(part).contiguous(memory_format=torch.channels_last)
        parts.append(model(x).float())
    return torch.cat(parts)


def accuracy(predictions: Tensor, labels: Tensor) -> float:
    """Share of predictions (N,) that equal the labels (N,). On clean images this is the MPA, main-task performance."""
    return (predictions == labels).float().mean().item()


def accuracy_per_class(predictions: Tensor, labels: Tensor, num_classes: int) -> list[float | None]:
    """Accuracy on the images of each class; None for a class without images."""
    return [
        accuracy(predictions[labels == label], labels[labels == label]) if bool((labels == label).any()) else None
        for label in range(num_classes)
    ]


def wilson_interval(share: float, count: int) -> Interval:
    """Wilson's score interval of 95 % (1927) for a probability, of which a `share` of `count` trials came true.

    At shares of 0 and 1, where an ASR often is, the plain interval has no width; this one has.
    """
    center = (share + Z**2 / (2 * count)) / (1 + Z**2 / count)
    margin = Z * math.sqrt(share * (1 - share) / count + (Z / (2 * count)) ** 2) / (1 + Z**2 / count)
    return max(0.0, center - margin), min(1.0, center + margin)


@dataclass(frozen=True)
class AccuracyDrop:
    """`lost` images were right before and are wrong after, `gained` ones the other way round; `drop` is
    (lost - gained) / images, and `interval` its 95 % interval."""

    drop: float
    interval: Interval
    lost: int
    gained: int


def accuracy_drop(before: Tensor, after: Tensor, labels: Tensor) -> AccuracyDrop:
    """By how much accuracy fell between two predictions (N,) of the same images with `labels` (N,)."""
    right_before, right_after = before == labels, after == labels
    lost, gained = int((right_before & ~right_after).sum()), int((~right_before & right_after).sum())
    return AccuracyDrop((lost - gained) / len(labels), drop_interval(lost, gained, len(labels)), lost, gained)


def drop_interval(lost: int, gained: int, count: int) -> Interval:
    """The 95 % interval of Bonett and Price (2012) for the difference of two proportions of the same `count` images.

    Images that both models have right, or both wrong, say nothing of the difference (McNemar 1947), so that it is known
    better than either accuracy. With one image added to the `lost` and one to the `gained` ones (Laplace),
    var = (p + q - (p - q)²) / (count + 2). Fagerland, Lydersen and Laake (2014) recommend it: the interval without the
    added images covers far too little where few images change, and has no width where none does.
    """
    p, q = (lost + 1) / (count + 2), (gained + 1) / (count + 2)
    margin = Z * math.sqrt((p + q - (p - q) ** 2) / (count + 2))
    return max(-1.0, p - q - margin), min(1.0, p - q + margin)


@dataclass(frozen=True)
class AttackSuccess:
    """`asr`: share of the counted triggered images that the model gives their target. `recovery_accuracy`: share that
    it gives their true label, so that an ASR of zero by destruction can be told from one by repair. `counted`:
    images."""

    asr: float
    recovery_accuracy: float
    counted: int


def attack_success(predictions: Tensor, triggered: Images, targets: Tensor) -> AttackSuccess | None:
    """ASR and recovery accuracy on triggered images with their **true** labels; `targets` (N,) int64.

    Images whose true label is already the target do not count (they would be "successes" of a clean model).
    None when no image is left to count.
    """
    counted = triggered.labels != targets
    if not bool(counted.any()):
        return None
    predictions = predictions[counted]
    return AttackSuccess(
        asr=accuracy(predictions, targets[counted]),
        recovery_accuracy=accuracy(predictions, triggered.labels[counted]),
        counted=int(counted.sum()),
    )
