"""What is measured on a model before and after purification. All figures are fractions in [0, 1].

Measurements run in float32, whatever training runs in: a figure is then what anybody gets who loads the file.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from worker.algorithms.data import Images, as_float
from worker.algorithms.training import Loss


@torch.no_grad()
def logits(model: nn.Module, pixels: Tensor, *, batch_size: int = 256) -> Tensor:
    """float32 logits (N, K) of uint8 images (N, C, H, W) in evaluation mode. The model's mode is put back."""
    was_training = model.training
    model.eval()
    parts = []
    for part in torch.split(pixels, batch_size):
        x = as_float(part).contiguous(memory_format=torch.channels_last)
        parts.append(model(x).float())
    model.train(was_training)
    return torch.cat(parts)


@torch.no_grad()
def mean_loss(model: nn.Module, images: Images, loss: Loss, *, batch_size: int = 256) -> float:
    """The mean of a training loss over images as they are, in evaluation mode. The model's mode is put back."""
    was_training = model.training
    model.eval()
    total = torch.zeros((), device=images.pixels.device)
    for pixels, labels in zip(
        torch.split(images.pixels, batch_size), torch.split(images.labels, batch_size), strict=True
    ):
        x = as_float(pixels).contiguous(memory_format=torch.channels_last)
        total += loss(model, x, labels) * len(labels)
    model.train(was_training)
    return (total / len(images)).item()


def accuracy(predictions: Tensor, labels: Tensor) -> float:
    """Share of predictions (N,) that equal the labels (N,). On clean images this is the MPA, main-task performance."""
    return (predictions == labels).float().mean().item()


def accuracy_per_class(predictions: Tensor, labels: Tensor, num_classes: int) -> list[float | None]:
    """Accuracy on the images of each class; None for a class without images."""
    return [
        accuracy(predictions[labels == label], labels[labels == label]) if bool((labels == label).any()) else None
        for label in range(num_classes)
    ]


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
