from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.worker.algorithms.networks import noisy_stripes, same_state
from worker.algorithms.checkpoint import Checkpoint
from worker.algorithms.classifier import Classifier
from worker.algorithms.data import as_float
from worker.algorithms.purifiers.ft_sam import ft_sam, sharpness_aware
from worker.algorithms.purifiers.retraining import Recipe, retrain
from worker.algorithms.training import ignore

CLEAN, HELD_OUT = noisy_stripes(128, seed=31), noisy_stripes(40, seed=32)
RECIPE = Recipe(
    epochs=2,
    batch_size=64,
    lr=0.01,
    lr_scale="none",
    schedule="cosine",
    momentum=0.9,
    weight_decay=5e-4,
    augmentation="crop_and_flip",
    averaging=0.0,
    choose="last",
    seed=3,
)


def smoothed(network: nn.Module, x: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(network(x).float(), labels, label_smoothing=0.1)


def test_with_no_radius_it_is_fine_tuning_with_smoothed_labels(suspect: Classifier) -> None:
    plain = retrain(
        suspect, CLEAN, HELD_OUT, smoothed, RECIPE, progress=ignore, resume=None, checkpoint=lambda make: None
    )
    still = ft_sam(suspect, CLEAN, HELD_OUT, rho=0.0, epochs=2, seed=3)
    sharp = ft_sam(suspect, CLEAN, HELD_OUT, epochs=2, seed=3)
    assert still.history == plain.history
    assert same_state(still.model, plain.model)
    assert not same_state(still.model, sharp.model)


class Line(nn.Module):
    """Logits 0 and w · x, of one pixel."""

    def __init__(self, weights: list[float]) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor(weights))

    def forward(self, x: Tensor) -> Tensor:
        score = x.flatten(1) @ self.w
        return torch.stack([torch.zeros_like(score), score], dim=1)


def test_loss_and_gradient_are_those_of_the_formula() -> None:
    w, x = np.array([0.5, -2.0, 1.0]), np.array([[0.2, 0.9, 0.4], [0.7, 0.1, 0.3]])
    labels, rho = np.array([1, 0]), 0.3

    def measured(w: np.ndarray) -> tuple[float, np.ndarray]:
        share = 1 / (1 + np.exp(-x @ w))
        return -np.mean(np.log(np.where(labels == 1, share, 1 - share))), (share - labels) @ x / len(x)

    _, g = measured(w)
    expected = measured(w + rho * w**2 * g / np.linalg.norm(np.abs(w) * g))
    line = Line(w.tolist())
    inputs = torch.tensor(x, dtype=torch.float32).reshape(2, 3, 1, 1)
    loss = sharpness_aware(rho, 0.0)(line, inputs, torch.tensor(labels))
    loss.backward()  # type: ignore[no-untyped-call]
    assert line.w.grad is not None
    assert loss.item() == pytest.approx(expected[0], rel=1e-5)
    assert line.w.grad.numpy() == pytest.approx(expected[1], rel=1e-5)
    assert line.w.detach().numpy() == pytest.approx(w)


def test_batch_norms_take_their_statistics_from_the_weights_as_they_are(suspect: Classifier) -> None:
    once, twice = copy.deepcopy(suspect).train(), copy.deepcopy(suspect).train()
    x = as_float(CLEAN.pixels[:64])
    once(x)
    sharpness_aware(2.0, 0.1)(twice, x, CLEAN.labels[:64])
    assert same_state(once, twice)


def test_measured_it_is_the_loss_as_it_is(suspect: Classifier) -> None:
    x = as_float(HELD_OUT.pixels)
    with torch.no_grad():
        assert sharpness_aware(2.0, 0.1)(suspect, x, HELD_OUT.labels) == smoothed(suspect, x, HELD_OUT.labels)


def test_interrupted_and_resumed_is_uninterrupted_to_the_bit(suspect: Classifier) -> None:
    options: dict[str, Any] = {"epochs": 3, "seed": 3}
    kept: list[Checkpoint] = []
    whole = ft_sam(suspect, CLEAN, HELD_OUT, checkpoint=lambda make: kept.append(make()), **options)
    assert same_state(whole.model, ft_sam(suspect, CLEAN, HELD_OUT, resume=kept[1], **options).model)
