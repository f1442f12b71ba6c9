from __future__ import annotations

import copy
import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.worker.algorithms.networks import noisy_stripes, same_state
from worker.algorithms.batch_norm import reestimate
from worker.algorithms.checkpoint import Checkpoint
from worker.algorithms.classifier import Classifier
from worker.algorithms.purifiers.fine_tuning import fine_tuning
from worker.algorithms.purifiers.mcr import along_the_curve, chosen_point, mcr, point
from worker.algorithms.purifiers.purified import Purified
from worker.algorithms.training import cross_entropy

CLEAN, HELD_OUT = noisy_stripes(128, seed=31), noisy_stripes(40, seed=32)
SHORT: dict[str, Any] = {"end_epochs": 2, "epochs": 3, "augmentation": "crop", "points": (0.5,), "seed": 7}


@dataclass(frozen=True)
class Whole:
    """A run from start to end: its result, its checkpoints and what progress it told."""

    purified: Purified
    kept: list[Checkpoint]
    told: list[float]


@pytest.fixture(scope="module")
def whole(suspect: Classifier) -> Whole:
    kept: list[Checkpoint] = []
    told: list[float] = []
    purified = mcr(suspect, CLEAN, HELD_OUT, checkpoint=lambda make: kept.append(make()), progress=told.append, **SHORT)
    return Whole(purified, kept, told)


def at(suspect: Classifier, *points: float) -> Purified:
    return mcr(suspect, CLEAN, HELD_OUT, **{**SHORT, "points": points, "augmentation": "none"})


def with_statistics_of_the_clean_images(model: nn.Module) -> nn.Module:
    model = copy.deepcopy(model)
    reestimate(model, CLEAN)
    return model


def test_the_curve_begins_at_the_suspect_and_ends_at_the_fine_tuned_one(suspect: Classifier) -> None:
    tuned = fine_tuning(suspect, CLEAN, HELD_OUT, epochs=2, augmentation="none", seed=7).model
    assert same_state(at(suspect, 0.0).model, with_statistics_of_the_clean_images(suspect))
    assert same_state(at(suspect, 1.0).model, with_statistics_of_the_clean_images(tuned))


def test_it_is_the_bezier_curve_of_its_ends_and_its_bend() -> None:
    start, end, bend = np.random.default_rng(0).normal(size=(3, 5))
    middle = start / 4 + bend / 2 + end / 4
    for t in (0.0, 0.1, 0.35, 0.5, 0.8, 1.0):
        expected = (1 - t) ** 2 * start + 2 * t * (1 - t) * bend + t**2 * end
        assert point(t, *map(torch.tensor, (start, middle, end))).numpy() == pytest.approx(expected)


class Line(nn.Module):
    """Logits 0 and w · x, of three pixels."""

    def __init__(self, weights: np.ndarray) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor(weights))

    def forward(self, x: Tensor) -> Tensor:
        score = x.flatten(1) @ self.w
        return torch.stack([torch.zeros_like(score), score], dim=1)


def test_the_middle_is_trained_at_random_points_of_the_curve() -> None:
    draw = np.random.default_rng(1)
    start, middle, end = draw.normal(size=(3, 3))
    x, labels, line = draw.random((4, 3)), np.array([0, 1, 1, 0]), Line(middle)
    loss = along_the_curve({"w": torch.tensor(start)}, {"w": torch.tensor(end)})
    inputs = torch.tensor(x).reshape(4, 3, 1, 1), torch.tensor(labels)
    ts = []
    for seed in range(3):
        line.w.grad = None
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            t = float(torch.rand(()))
            torch.manual_seed(seed)
            value = loss(line, *inputs)
        value.backward()  # type: ignore[no-untyped-call]
        ts.append(t)
        w = (1 - t) ** 2 * start + 2 * t * (1 - t) * (2 * middle - (start + end) / 2) + t**2 * end
        share = 1 / (1 + np.exp(-x @ w))
        assert value.item() == pytest.approx(-np.mean(np.log(np.where(labels == 1, share, 1 - share))), rel=1e-5)
        assert line.w.grad is not None
        assert line.w.grad.numpy() == pytest.approx(4 * t * (1 - t) * (share - labels) @ x / 4, rel=1e-4)
    assert np.ptp(ts) > 0.1
    with torch.no_grad():
        assert loss(line, *inputs) == cross_entropy(line, *inputs)


def test_the_point_is_the_farthest_from_both_ends_that_is_accurate() -> None:
    accuracies = {0.1: 0.90, 0.3: 0.91, 0.5: 0.80, 0.7: 0.885, 0.9: 0.92}
    assert chosen_point(accuracies, 0.7) == 0.5
    assert chosen_point(accuracies, 0.88) == 0.7  # as far as 0.3 is, and farther from the suspect
    assert chosen_point(accuracies, 0.89) == 0.3
    assert chosen_point(accuracies, 0.915) == 0.9
    assert chosen_point(accuracies, 0.95) == 0.9


@pytest.mark.parametrize("after", [1, 2, 4])
def test_interrupted_and_resumed_is_uninterrupted_to_the_bit(whole: Whole, suspect: Classifier, after: int) -> None:
    """After that many epochs, of which 1 and 2 are the fine-tuned end's; as the checkpoint comes back from a file."""
    kept = whole.kept[after - 1]
    last = Checkpoint(
        json.loads(json.dumps(kept.facts)), {name: tensor.contiguous() for name, tensor in kept.tensors.items()}
    )
    resumed = mcr(suspect, CLEAN, HELD_OUT, resume=last, **SHORT)
    assert same_state(whole.purified.model, resumed.model)
    assert whole.purified.history == resumed.history


def test_progress_goes_once_from_nothing_to_all(whole: Whole) -> None:
    assert whole.told == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])


def test_a_note_names_the_point(whole: Whole) -> None:
    (note,) = whole.purified.notes
    assert note.code == "curve_point"
    assert "t = 0.5" in note.message
