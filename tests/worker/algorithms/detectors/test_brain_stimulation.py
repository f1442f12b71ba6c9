from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.worker.algorithms.networks import noisy_stripes, same_state
from worker.algorithms.classifier import Classifier
from worker.algorithms.cut import Cut
from worker.algorithms.detectors.brain_stimulation import (
    REACH,
    ROOM,
    BrainStimulation,
    _elevations,
    _neurons,
    _reverse,
    brain_stimulation,
)
from worker.algorithms.detectors.every_label import batches
from worker.algorithms.trace import Tap

IMAGES = noisy_stripes(60, seed=5)


def scan(model: nn.Module, **options: Any) -> BrainStimulation:
    options = {
        "steps": 120,
        "pixels": 9,
        "most": 4,
        "batch_size": 8,
        "seeds": 16,
        "asr_threshold": 0.75,
        "levels": 4,
        **options,
    }
    return brain_stimulation(model, IMAGES, noisy_stripes(80, seed=6), **options)


def test_a_neuron_of_the_suspect_has_a_small_trigger_for_the_target_and_none_of_the_twin(
    suspect: Classifier, benign: Classifier
) -> None:
    found = scan(suspect)
    best = max(found.candidates, key=lambda candidate: candidate.asr or 0)
    assert found.flagged == [0] == [best.label]
    assert best.consistency > 0.9
    assert best.pixels <= 9 * ROOM
    assert scan(benign).flagged == []


class Mixed(nn.Module):
    """Three neurons, the mean colours; each raises the labels by its own row of weights."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.AvgPool2d(4)
        self.weight = torch.tensor([[3.0, 1.0, 0.0], [0.0, 2.0, 2.5], [-1.0, -2.0, -0.5]])

    def forward(self, x: Tensor) -> Tensor:
        return self.features(x).mean((2, 3)) @ self.weight


@pytest.mark.parametrize("at_once", [1, 9, 100])
def test_elevations_are_those_of_the_highest_level_that_helps(at_once: int) -> None:
    model, x = Mixed(), torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    cut = Cut(model, Tap("features", 3, 2, 2), x[:1])
    found = _elevations(cut, x, 4, at_once)
    top = REACH * model.features(x).amax()
    # Linear, so a positive weight helps most at the top, and a negative one hurts least at the first level.
    expected = torch.where(model.weight > 0, top * model.weight, top / 4 * model.weight)
    assert torch.allclose(found, expected[:, None].expand(-1, 4, -1), atol=1e-4)


def test_candidates_are_consistent_and_the_largest_lead_comes_first() -> None:
    elevations = torch.zeros(4, 4, 3)
    elevations[0, :, 1] = 2.0
    elevations[1, :, 0], elevations[1, :, 2] = 5.0, 1.0
    elevations[2, :2, 0], elevations[2, 2:, 1] = 90.0, 10.0  # one label for half of the images alone
    elevations[3, :, 2] = 1.0
    assert _neurons(elevations, 0.75, 2) == [(1, 0, 1.0, 4.0), (0, 1, 1.0, 2.0)]
    assert [neuron[0] for neuron in _neurons(elevations, 0.5, 4)] == [2, 1, 0, 3]


def test_a_reversed_trigger_drives_its_neuron_and_stays_small() -> None:
    model, images = Mixed(), noisy_stripes(20, size=8)
    cut = Cut(model, Tap("features", 3, 2, 2), images.pixels[:1] / 255)
    drawn = batches(20, 150, 8, 0)
    triggers = _reverse([0, 2], cut, images, drawn, 6.0, 0.1, 0, 100, lambda _: None)
    for channel, trigger in zip((0, 2), triggers, strict=True):
        others = [other for other in range(3) if other != channel]
        strongest = (trigger.mask * trigger.pattern).sum((1, 2)) / trigger.mask.sum()
        assert trigger.mask.sum() <= 6 * ROOM
        assert strongest[channel] > 0.8 > 0.3 > strongest[others].max()


def test_the_seed_decides_and_the_model_is_left_as_it_was(suspect: Classifier) -> None:
    model = copy.deepcopy(suspect).train()
    before = copy.deepcopy(model)
    one, same, other = (scan(model, steps=2, levels=1, most=1, seed=seed).candidates[0] for seed in (0, 0, 1))
    assert torch.equal(one.trigger.pattern, same.trigger.pattern)
    assert not torch.equal(one.trigger.pattern, other.trigger.pattern)
    assert same_state(model, before)
    assert model.training
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
