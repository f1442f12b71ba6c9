from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch

from tests.worker.algorithms.networks import noisy_stripes, same_state
from worker.algorithms.aim import Aim, success
from worker.algorithms.attacks.poisoned import Poisoned
from worker.algorithms.attacks.wanet import wanet
from worker.algorithms.checkpoint import Checkpoint
from worker.algorithms.classifier import Classifier
from worker.algorithms.detectors.suspected import Put
from worker.algorithms.detectors.universal import Shift
from worker.algorithms.distillation import divergence
from worker.algorithms.metrics import logits
from worker.algorithms.purifiers.fine_tuning import fine_tuning
from worker.algorithms.purifiers.unlearning import notes_on, stamped, unlearning
from worker.algorithms.triggers import Trigger

CLEAN, HELD_OUT = noisy_stripes(128, seed=31), noisy_stripes(40, seed=32)
SHORT: dict[str, Any] = {"epochs": 2, "augmentation": "crop", "seed": 3}


def test_with_no_stamped_images_and_no_soft_labels_it_is_fine_tuning(suspect: Classifier) -> None:
    plain = fine_tuning(suspect, CLEAN, HELD_OUT, **SHORT)
    bare = unlearning(suspect, CLEAN, HELD_OUT, share=0.0, own_logits=0.0, steps=10, **SHORT)
    assert bare.history == plain.history
    assert same_state(bare.model, plain.model)


def patch(draw: np.random.Generator, label: int) -> Aim[Put]:
    return Aim(Trigger(torch.tensor(draw.random((1, 4, 4))), torch.tensor(draw.random((3, 4, 4)))), label)


def test_known_triggers_are_not_searched(suspect: Classifier, poisoned: Poisoned[Trigger]) -> None:
    told: list[float] = []
    known = (Aim(poisoned.trigger, 0),)
    options: dict[str, Any] = {"epochs": 10, "batch_size": 16, "lr": 0.02, "augmentation": "crop"}
    result = unlearning(suspect, CLEAN, HELD_OUT, known=known, progress=told.append, **options)
    test = noisy_stripes(200, seed=9)
    before, after = success(suspect, test, known[0]), success(result.model, test, known[0])
    assert before is not None
    assert after is not None
    assert after.asr < 0.3 * before.asr
    assert len(told) == 10
    assert [note.code for note in result.notes] == ["unlearnt"]


def test_soft_labels_are_the_suspects_own_without_the_trigger(suspect: Classifier, poisoned: Poisoned[Trigger]) -> None:
    own, triggered = logits(suspect, HELD_OUT.pixels), poisoned.trigger.stamp(HELD_OUT.pixels)
    options: dict[str, Any] = {"epochs": 4, "lr": 0.003, "augmentation": "crop", "share": 1.0}
    gaps = [
        divergence(logits(unlearnt.model, triggered), own).item()
        for unlearnt in (
            unlearning(suspect, CLEAN, HELD_OUT, known=(Aim(poisoned.trigger, 0),), own_logits=weight, **options)
            for weight in (0.0, 3.0)
        )
    ]
    assert gaps[1] < 0.8 * gaps[0]


def test_a_share_of_the_images_carries_the_triggers_in_turn() -> None:
    draw = np.random.default_rng(0)
    x, aims = draw.random((11, 3, 4, 4)), [patch(draw, 0), patch(draw, 1)]
    expected = x.copy()
    for image, aim in enumerate([aims[0], aims[1], aims[0]]):  # 0.3 of 11
        expected[image] = aim.trigger.put(torch.tensor(x[image : image + 1]))[0].numpy()
    assert stamped(torch.tensor(x), aims, 0.3).numpy() == pytest.approx(expected)
    assert (expected[:3] != x[:3]).any((1, 2, 3)).all()


def test_without_triggers_nothing_is_stamped() -> None:
    x = torch.rand(5, 3, 4, 4)
    assert torch.equal(stamped(x, [], 1.0), x)


def test_notes_tell_what_was_unlearnt() -> None:
    draw = np.random.default_rng(0)
    (told,) = notes_on([patch(draw, 3), Aim(Shift(torch.zeros(3, 4, 4)), 1)], 2)
    assert told.code == "unlearnt"
    assert "a patch for label 3, a pattern for label 1" in told.message
    (smallest,) = notes_on([Aim(Trigger(torch.full((1, 4, 4), 0.375), torch.zeros(3, 4, 4)), 1)], 0)
    assert smallest.code == "no_label_flagged"
    assert "label 1, 6.0 pixels" in smallest.message
    assert [note.code for note in notes_on([], 0)] == ["nothing_to_unlearn"]


def test_a_warp_is_unlearnt_only_where_warps_are_searched(warped_suspect: Classifier) -> None:
    trigger = wanet(noisy_stripes(4), strength=3.0).trigger
    options: dict[str, Any] = {
        "epochs": 12,
        "batch_size": 32,
        "lr": 0.02,
        "share": 0.4,
        "augmentation": "crop",
        "steps": 10,
    }
    kept, gone = (
        unlearning(warped_suspect, CLEAN, HELD_OUT, triggers=kinds, **options) for kinds in (("patch",), ("warp",))
    )
    test = noisy_stripes(200, seed=9)
    before, with_patches, with_warps = (
        success(model, test, Aim(trigger, 0)) for model in (warped_suspect, kept.model, gone.model)
    )
    assert before is not None
    assert with_patches is not None
    assert with_warps is not None
    assert with_warps.asr < 0.5 * min(before.asr, with_patches.asr)
    assert [note.code for note in gone.notes] == ["unlearnt"]


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
