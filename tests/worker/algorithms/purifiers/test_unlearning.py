from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch

from tests.worker.algorithms.networks import noisy_stripes, same_state
from worker.algorithms.checkpoint import Checkpoint
from worker.algorithms.classifier import Classifier
from worker.algorithms.detectors.anomaly import Anomaly
from worker.algorithms.detectors.neural_cleanse import NeuralCleanse
from worker.algorithms.detectors.reversal import ReversedTriggers
from worker.algorithms.purifiers.fine_tuning import fine_tuning
from worker.algorithms.purifiers.unlearning import notes_on, stamped, suspicious, unlearning

CLEAN, HELD_OUT = noisy_stripes(128, seed=31), noisy_stripes(40, seed=32)
SHORT: dict[str, Any] = {"epochs": 2, "augmentation": "crop", "seed": 3}


def test_with_no_stamped_images_it_is_fine_tuning(suspect: Classifier) -> None:
    plain = fine_tuning(suspect, CLEAN, HELD_OUT, **SHORT)
    bare = unlearning(suspect, CLEAN, HELD_OUT, share=0.0, steps=10, **SHORT)
    assert bare.history == plain.history
    assert same_state(bare.model, plain.model)


def test_a_share_of_the_images_carries_the_triggers_in_turn() -> None:
    draw = np.random.default_rng(0)
    x, masks, patterns = draw.random((11, 3, 4, 4)), draw.random((2, 1, 4, 4)), draw.random((2, 3, 4, 4))
    expected = x.copy()
    for image, trigger in enumerate([0, 1, 0]):  # 0.3 of 11
        expected[image] = (1 - masks[trigger]) * x[image] + masks[trigger] * patterns[trigger]
    assert stamped(*map(torch.tensor, (x, masks, patterns)), 0.3).numpy() == pytest.approx(expected)
    assert (expected[3:] == x[3:]).all()


def test_without_triggers_nothing_is_stamped() -> None:
    x = torch.rand(5, 3, 4, 4)
    assert torch.equal(stamped(x, torch.empty(0, 1, 4, 4), torch.empty(0, 3, 4, 4), 1.0), x)


def cleansed(norms: list[float], *, flagged: list[int], reached: list[bool]) -> NeuralCleanse:
    """What Neural Cleanse would say of labels whose triggers have these norms; each mask is full of norm / 16."""
    sizes = torch.tensor(norms)
    masks = (sizes / 16)[:, None, None, None].expand(-1, 1, 4, 4)
    patterns = torch.arange(len(norms))[:, None, None, None].expand(-1, 3, 4, 4) / 10
    triggers = ReversedTriggers(masks, patterns, sizes, torch.tensor(reached))
    statistics = Anomaly(0.0, None, flagged, "ratio", norms, 0.0, 0.0, False)
    return NeuralCleanse(triggers, sizes, torch.zeros(len(norms)), statistics, 1)


def test_all_flagged_labels_are_unlearnt_and_need_no_note() -> None:
    found = suspicious(cleansed([9.0, 2.0, 8.0, 1.0], flagged=[3, 1], reached=[True] * 4))
    assert found["labels"].tolist() == [3, 1]
    assert found["masks"].sum((1, 2, 3)).tolist() == [1.0, 2.0]
    assert found["patterns"].amax((1, 2, 3)).tolist() == pytest.approx([0.3, 0.1])
    assert notes_on(found) == []


def test_where_no_label_is_flagged_it_takes_the_smallest_trigger_and_says_so() -> None:
    found = suspicious(cleansed([9.0, 6.0, 8.0], flagged=[], reached=[True] * 3))
    assert found["labels"].tolist() == [1]
    (note,) = notes_on(found)
    assert note.code == "no_label_flagged"
    assert "label 1, 6.0 pixels" in note.message


def test_where_no_trigger_is_found_it_unlearns_none_and_says_so() -> None:
    found = suspicious(cleansed([16.0, 16.0], flagged=[], reached=[False] * 2))
    assert found["labels"].tolist() == []
    assert [note.code for note in notes_on(found)] == ["nothing_to_unlearn"]


def test_interrupted_and_resumed_is_uninterrupted_and_searches_once(suspect: Classifier) -> None:
    kept: list[Checkpoint] = []
    told: list[float] = []
    options = {**SHORT, "steps": 30}
    whole = unlearning(suspect, CLEAN, HELD_OUT, checkpoint=lambda make: kept.append(make()), **options)
    last = Checkpoint(json.loads(json.dumps(kept[0].facts)), kept[0].tensors)
    resumed = unlearning(suspect, CLEAN, HELD_OUT, resume=last, progress=told.append, **options)
    assert same_state(whole.model, resumed.model)
    assert whole.notes == resumed.notes
    assert not same_state(whole.model, fine_tuning(suspect, CLEAN, HELD_OUT, **SHORT).model)  # some trigger was found
    assert told == [1.0]
