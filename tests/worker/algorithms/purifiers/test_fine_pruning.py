"""Fine-pruning: the mask of pruning, and fine-tuning that keeps it."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from tests.worker.algorithms.networks import noisy_stripes, same_state
from worker.algorithms.checkpoint import Checkpoint
from worker.algorithms.classifier import Classifier
from worker.algorithms.purifiers.fine_pruning import fine_pruning
from worker.algorithms.purifiers.fine_tuning import fine_tuning
from worker.algorithms.purifiers.pruning import pruning

CLEAN, HELD_OUT = noisy_stripes(128, seed=31), noisy_stripes(60, seed=32)
SHORT: dict[str, Any] = {"epochs": 3, "lr": 0.01, "augmentation": "crop", "seed": 5}
READER = "network.fc.weight"


def test_what_was_pruned_stays_zero_and_the_rest_is_trained(suspect: Classifier) -> None:
    pruned = pruning(suspect, CLEAN, HELD_OUT).model.get_parameter(READER)
    tuned = fine_pruning(suspect, CLEAN, HELD_OUT, **SHORT)
    after = tuned.model.get_parameter(READER)
    assert (pruned == 0).any()
    assert torch.equal(after == 0, pruned == 0)
    assert not torch.equal(after, pruned)
    assert not torch.equal(
        tuned.model.get_parameter("network.conv1.weight"), suspect.get_parameter("network.conv1.weight")
    )
    assert [entry["epoch"] for entry in tuned.history] == [1, 2, 3]


def test_without_pruning_it_is_fine_tuning(suspect: Classifier) -> None:
    tuned = fine_pruning(suspect, CLEAN, HELD_OUT, max_drop=0.0, **SHORT)
    assert same_state(tuned.model, fine_tuning(suspect, CLEAN, HELD_OUT, **SHORT).model)
    assert [note.code for note in tuned.notes] == ["nothing_pruned"]


@pytest.mark.parametrize("after", [1, 2])
def test_interrupted_and_resumed_is_uninterrupted_to_the_bit(suspect: Classifier, after: int) -> None:
    class Killed(Exception):
        pass

    kept: list[Checkpoint] = []

    def die(fraction: float) -> None:
        if len(kept) == after:
            raise Killed

    whole = fine_pruning(suspect, CLEAN, HELD_OUT, **SHORT)
    with pytest.raises(Killed):
        fine_pruning(suspect, CLEAN, HELD_OUT, checkpoint=lambda make: kept.append(make()), progress=die, **SHORT)
    last = Checkpoint(json.loads(json.dumps(kept[-1].facts)), kept[-1].tensors)
    told: list[float] = []
    resumed = fine_pruning(suspect, CLEAN, HELD_OUT, resume=last, progress=told.append, **SHORT)
    assert len(told) == 3 - after  # no second search: what it finds could differ on another machine
    assert same_state(whole.model, resumed.model)
    assert whole.history == resumed.history


def test_progress_goes_once_from_nothing_to_all(suspect: Classifier) -> None:
    told: list[float] = []
    fine_pruning(suspect, CLEAN, HELD_OUT, progress=told.append, **SHORT)
    assert told == sorted(told)
    assert told[-3:] == pytest.approx([0.05 + 0.95 / 3, 0.05 + 0.95 * 2 / 3, 1.0])
    assert told[0] > 0
