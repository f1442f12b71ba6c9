from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from tests.worker.algorithms.networks import noisy_stripes, same_state
from worker.algorithms.checkpoint import Checkpoint
from worker.algorithms.classifier import Classifier
from worker.algorithms.data import as_float
from worker.algorithms.purifiers.fine_tuning import fine_tuning
from worker.algorithms.purifiers.i_bau import Attacked, ascend, i_bau, perturb, rms
from worker.algorithms.training import cross_entropy

CLEAN, HELD_OUT = noisy_stripes(128, seed=31), noisy_stripes(40, seed=32)
SHORT: dict[str, Any] = {"epochs": 2, "seed": 3}


def test_without_a_perturbation_it_is_fine_tuning(suspect: Classifier) -> None:
    plain = fine_tuning(suspect, CLEAN, HELD_OUT, **SHORT)
    of_no_size, on_no_image, moved = (
        i_bau(suspect, CLEAN, HELD_OUT, **options, **SHORT) for options in ({"radius": 0.0}, {"share": 0.0}, {})
    )
    assert of_no_size.history == on_no_image.history == plain.history
    assert same_state(of_no_size.model, plain.model)
    assert same_state(on_no_image.model, plain.model)
    assert not same_state(moved.model, plain.model)


def test_the_perturbation_climbs_within_its_ball_and_leaves_the_network_alone(suspect: Classifier) -> None:
    x, radius = as_float(CLEAN.pixels), 0.1
    network = Attacked(copy.deepcopy(suspect), torch.zeros(3, 16, 16))
    before, losses = network.network.state_dict(), []
    for _ in range(8):
        losses.append(cross_entropy(suspect, perturb(x, network.perturbation), CLEAN.labels).item())
        ascend(network, x, CLEAN.labels, radius, 0.25)
        assert rms(network.perturbation).item() <= radius * 1.0001
    assert losses[-1] > 2 * losses[0]
    assert rms(network.perturbation).item() == pytest.approx(radius, rel=1e-3)
    assert all(torch.equal(value, suspect.state_dict()[name]) for name, value in before.items())
    assert all(parameter.grad is None for parameter in network.parameters())


def test_the_first_step_is_a_share_of_the_radius_up_the_slope(suspect: Classifier) -> None:
    network, x = Attacked(copy.deepcopy(suspect), torch.zeros(3, 16, 16)), as_float(CLEAN.pixels)
    delta = torch.zeros(3, 16, 16, requires_grad=True)
    cross_entropy(suspect, x + delta, CLEAN.labels).backward()  # type: ignore[no-untyped-call]
    suspect.zero_grad()
    ascend(network, x, CLEAN.labels, 0.1, 0.25)
    step, slope = network.perturbation.flatten(), delta.grad.flatten()  # type: ignore[union-attr]
    assert rms(step).item() == pytest.approx(0.025, rel=1e-4)
    assert torch.cosine_similarity(step, slope, dim=0).item() > 0.9  # clamped pixels have no slope


def test_interrupted_and_resumed_is_uninterrupted_to_the_bit(suspect: Classifier) -> None:
    """With the perturbation as it was."""
    kept: list[Checkpoint] = []
    whole = i_bau(suspect, CLEAN, HELD_OUT, checkpoint=lambda make: kept.append(make()), **SHORT)
    resumed = i_bau(suspect, CLEAN, HELD_OUT, resume=kept[0], **SHORT)
    assert same_state(whole.model, resumed.model)
    assert whole.history == resumed.history
