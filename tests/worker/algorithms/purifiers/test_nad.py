from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.worker.algorithms.networks import noisy_stripes, same_state
from worker.algorithms.checkpoint import Checkpoint
from worker.algorithms.classifier import Classifier
from worker.algorithms.data import Images, as_float
from worker.algorithms.errors import UnfitOptions
from worker.algorithms.precision import autocast
from worker.algorithms.purifiers.fine_tuning import fine_tuning
from worker.algorithms.purifiers.nad import nad
from worker.algorithms.taps import find_taps, recording
from worker.algorithms.training import cross_entropy, validate

CLEAN, HELD_OUT = noisy_stripes(128, seed=31), noisy_stripes(40, seed=32)
SHORT: dict[str, Any] = {"teacher_epochs": 2, "epochs": 3, "lr": 0.003, "augmentation": "crop", "seed": 7}


def maps(model: nn.Module, images: Images) -> list[np.ndarray]:
    """The normalised attention maps of all taps, one row an image, by NumPy from the features."""
    taps = find_taps(model, as_float(images.pixels)).used
    with recording(model, taps) as features, torch.no_grad(), autocast(images.pixels.device):
        model(as_float(images.pixels))

    def normalised(values: Tensor) -> np.ndarray:
        rows = (values.float().numpy().astype(np.float64) ** 2).sum(1).reshape(len(values), -1)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    return [normalised(features[tap.name]) for tap in taps]


def apart(one: nn.Module, other: nn.Module, images: Images) -> list[float]:
    return [float(((a - b) ** 2).mean()) for a, b in zip(maps(one, images), maps(other, images), strict=True)]


def tuned(suspect: Classifier, **options: Any) -> Classifier:
    """By fine-tuning, with what NAD has in common with it."""
    common = {"weight_decay": 1e-4, "augmentation": SHORT["augmentation"], "seed": SHORT["seed"]}
    model = fine_tuning(suspect, CLEAN, HELD_OUT, **common, **options).model
    assert isinstance(model, Classifier)
    return model


def test_without_attention_it_is_fine_tuning(suspect: Classifier) -> None:
    distilled = nad(suspect, CLEAN, HELD_OUT, beta=0.0, **SHORT)
    assert same_state(distilled.model, tuned(suspect, epochs=3, lr=0.003, schedule="divided"))


def test_the_loss_is_cross_entropy_and_beta_times_the_distance_from_the_teacher(suspect: Classifier) -> None:
    betas = [10.0, 0.0, 70.0, 200.0]
    result = nad(suspect, CLEAN, HELD_OUT, beta=betas, **{**SHORT, "epochs": 1})
    teacher = tuned(suspect, epochs=2, lr=0.01)
    classification, _ = validate(result.model, HELD_OUT, cross_entropy)
    distances = apart(result.model, teacher, HELD_OUT)
    expected = classification + sum(beta * distance for beta, distance in zip(betas, distances, strict=True))
    assert sum(distances) > 0
    assert result.history[0]["held_out_loss"] == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("after", [1, 2, 3, 4])
def test_interrupted_and_resumed_is_uninterrupted_to_the_bit(suspect: Classifier, after: int) -> None:
    """Killed in the epoch after `after`: 1 and 2 are the teacher's."""

    class Killed(Exception):
        pass

    kept: list[Checkpoint] = []

    def die(fraction: float) -> None:
        if len(kept) == after:
            raise Killed

    with pytest.raises(Killed):
        nad(suspect, CLEAN, HELD_OUT, checkpoint=lambda make: kept.append(make()), progress=die, **SHORT)
    last = Checkpoint(json.loads(json.dumps(kept[-1].facts)), kept[-1].tensors)
    whole, resumed = nad(suspect, CLEAN, HELD_OUT, **SHORT), nad(suspect, CLEAN, HELD_OUT, resume=last, **SHORT)
    assert same_state(whole.model, resumed.model)
    assert whole.history == resumed.history


def test_progress_goes_once_from_nothing_to_all(suspect: Classifier) -> None:
    told: list[float] = []
    nad(suspect, CLEAN, HELD_OUT, progress=told.append, **SHORT)
    assert told == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])


def test_each_tap_needs_its_weight(suspect: Classifier) -> None:
    with pytest.raises(UnfitOptions, match="2 weights, and there are 4 taps"):
        nad(suspect, CLEAN, HELD_OUT, beta=[1.0, 2.0], **SHORT)
