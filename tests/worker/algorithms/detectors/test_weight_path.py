from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from tests.worker.algorithms.networks import noisy_stripes, same_state, small_classifier
from worker.algorithms.aim import Aim
from worker.algorithms.attacks.poisoned import Poisoned
from worker.algorithms.classifier import Classifier
from worker.algorithms.detectors.weight_path import WeightPath, notes, stage, weight_path
from worker.algorithms.errors import WeightsMismatch
from worker.algorithms.triggers import Trigger

IMAGES = noisy_stripes(60, seed=5)


def path(asrs: list[float | None], losses: list[float] | None = None) -> WeightPath:
    positions = np.linspace(0, 1, len(asrs)).tolist()
    return WeightPath(positions, losses or [0.0] * len(asrs), [1.0] * len(asrs), asrs, {})


def test_the_ends_are_the_models_and_what_is_between_is_between(
    suspect: Classifier, benign: Classifier, poisoned: Poisoned[Trigger]
) -> None:
    before = copy.deepcopy(suspect)
    found = weight_path(suspect, benign, IMAGES, poisoned.aims[0], points=3)
    assert found.positions == [0.0, 0.5, 1.0]
    assert found.accuracies[0] > 0.95 < found.accuracies[2]
    assert (found.surrogate_asrs[0] or 0) > 0.9
    assert (found.surrogate_asrs[2] or 0) < 0.2
    middle = copy.deepcopy(suspect)
    with torch.no_grad():
        for one, other in zip(middle.state_dict().values(), benign.state_dict().values(), strict=True):
            if one.is_floating_point():
                one.copy_((one + other) / 2)  # batch-norm statistics too
        logits = middle(IMAGES.pixels / 255)
    assert found.losses[1] == pytest.approx(nn.functional.cross_entropy(logits, IMAGES.labels).item(), rel=1e-3)
    assert same_state(suspect, before)


def test_changes_are_relative_and_by_stage(poisoned: Poisoned[Trigger]) -> None:
    model = small_classifier()
    other = copy.deepcopy(model)
    with torch.no_grad():
        for weight in other.network.layer3.parameters():
            weight.mul_(1.25)
    found = weight_path(model, other, IMAGES, poisoned.aims[0], points=2)
    assert list(found.changes) == ["conv1", "bn1", "layer1", "layer2", "layer3", "layer4", "fc"]
    assert {name: change for name, change in found.changes.items() if change} == {"layer3": pytest.approx(0.25)}


def test_weights_that_were_and_stay_zero_have_not_changed(poisoned: Poisoned[Trigger]) -> None:
    model = small_classifier()
    with torch.no_grad():
        for weight in model.network.fc.parameters():
            weight.zero_()
    assert weight_path(model, model, IMAGES, poisoned.aims[0], points=2).changes["fc"] == 0.0


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("network.layer3.0.conv1.weight", "layer3"),
        ("network.features.0.weight", "features.0"),
        ("features.denseblock2.denselayer1.norm1.weight", "features.denseblock2"),
        ("network.stages.1.blocks.0.norm.weight", "stages.1"),
        ("network.fc.bias", "fc"),
        ("pos_embed", ""),
    ],
)
def test_a_stage_is_named_up_to_its_number(name: str, expected: str) -> None:
    assert stage(name) == expected


def test_other_networks_have_no_line_between_them(poisoned: Poisoned[Trigger]) -> None:
    with pytest.raises(WeightsMismatch):
        weight_path(small_classifier(), small_classifier(width=4), IMAGES, Aim(poisoned.trigger, 0), points=2)


def test_barrier_and_life_of_the_backdoor() -> None:
    found = path([0.8, 0.9, 0.5, 0.39, 0.1], [1.0, 1.0, 3.0, 1.5, 2.0])
    assert found.barrier == pytest.approx(1.5)
    assert found.alive_until == 0.5
    assert path([None, None]).alive_until is None
    assert path([0.0, 0.0]).alive_until is None


@pytest.mark.parametrize(
    ("found", "codes"),
    [
        (path([1.0, 1.0, 1.0, 1.0, 0.9, 0.1]), ["removal_superficial"]),
        (path([1.0, 1.0, 0.1, 0.0, 0.0, 0.0]), []),
        (path([1.0, 1.0, 1.0, 1.0, 1.0, 0.9]), []),  # not removed at all: the ASR says so
        (path([1.0, 1.0, 1.0, 1.0, 0.9, 0.1], [0.1, 0.1, 0.9, 0.9, 0.9, 0.1]), []),  # another basin
        (path([None] * 6), []),
    ],
)
def test_notes(found: WeightPath, codes: list[str]) -> None:
    assert [note.code for note in notes(found)] == codes
