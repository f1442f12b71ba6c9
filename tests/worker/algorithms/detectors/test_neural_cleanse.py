from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from tests.worker.algorithms.networks import noisy_stripes, same_state
from worker.algorithms.attacks.poisoned import Poisoned
from worker.algorithms.classifier import Classifier
from worker.algorithms.data import Images
from worker.algorithms.detectors.neural_cleanse import ReversedTriggers, anomaly, neural_cleanse
from worker.algorithms.metrics import attack_success, logits

ALL = torch.ones(10, dtype=torch.bool)
BENIGN_NORMS = [49.1, 71.7, 77.5, 71.5, 69.8, 51.5, 96.9, 73.7, 57.8]


def test_index_is_that_of_the_paper() -> None:
    norms = np.array([5.0, *BENIGN_NORMS])
    median = np.median(norms)
    expected = (median - 5.0) / (1.4826 * np.median(np.abs(norms - median)))
    assert anomaly(torch.tensor(norms), ALL).index == pytest.approx(expected)


def test_the_median_of_an_even_number_is_the_mean_of_the_middle_two() -> None:
    # torch.median would take the lower one: 2 instead of 2.5, and a MAD of 1 instead of 1.
    norms = torch.tensor([0.5, 2.0, 3.0, 4.0])
    median = 2.5
    mad = np.median(np.abs(norms.numpy() - median))
    assert anomaly(norms, ALL[:4]).index == pytest.approx((median - 0.5) / (1.4826 * mad))


def test_a_small_norm_is_flagged_and_a_large_one_is_not() -> None:
    assert anomaly(torch.tensor([5.0, *BENIGN_NORMS]), ALL).flagged == [0]
    assert anomaly(torch.tensor([400.0, *BENIGN_NORMS]), ALL).flagged == []


def test_several_small_norms_are_flagged_smallest_first() -> None:
    norms = torch.tensor([3.0, *BENIGN_NORMS[:5], 1.5, *BENIGN_NORMS[5:8]])
    assert anomaly(norms, ALL).flagged == [6, 0]


def test_an_outlier_that_is_not_small_is_not_flagged() -> None:
    # Nine norms that lie close together make an outlier of anything: 80 beside 100 is no small trigger.
    norms = torch.tensor([80.0, *torch.linspace(99, 101, 9).tolist()])
    assert anomaly(norms, ALL).index > 2
    assert anomaly(norms, ALL).flagged == []


def test_a_label_that_was_not_reached_is_not_flagged() -> None:
    reached = ALL.clone()
    reached[0] = False
    assert anomaly(torch.tensor([5.0, *BENIGN_NORMS]), reached).flagged == []


def test_equal_norms_have_no_outlier() -> None:
    result = anomaly(torch.full((10,), 1024.0), ALL)
    assert (result.index, result.flagged) == (0.0, [])
    assert result.p_value == 1.0


def test_p_value_is_calibrated_on_benign_norms() -> None:
    # Norms that are log-normal indeed: a threshold of 5 % must flag about 5 % of them, where an index of 2 flags many.
    generator = torch.Generator().manual_seed(1)
    models = [torch.exp(4 + 0.3 * torch.randn(10, generator=generator)) for _ in range(150)]
    results = [anomaly(norms, ALL) for norms in models]
    flagged = sum(bool(result.flagged) for result in results) / len(results)
    above_two = sum(result.index > 2 for result in results) / len(results)
    assert flagged <= 0.12
    assert above_two > flagged


@pytest.fixture(scope="module")
def reversed_triggers(suspect: Classifier) -> ReversedTriggers:
    return neural_cleanse(suspect, noisy_stripes(200, seed=5), num_classes=4, steps=120, seed=0).triggers


def test_the_backdoors_label_has_by_far_the_smallest_trigger(reversed_triggers: ReversedTriggers) -> None:
    norms = reversed_triggers.norms
    assert int(norms.argmin()) == 0
    assert norms[0] < norms[1:].min() / 2
    assert reversed_triggers.reached[0]


def test_the_reversed_trigger_works(reversed_triggers: ReversedTriggers, suspect: Classifier) -> None:
    images = noisy_stripes(400, seed=11)
    stamped = Images(reversed_triggers[0].stamp(images.pixels), images.labels)
    success = attack_success(logits(suspect, stamped.pixels).argmax(1), stamped, torch.zeros(400, dtype=torch.int64))
    assert success is not None
    assert success.asr > 0.9


def test_norms_are_those_of_the_masks(reversed_triggers: ReversedTriggers) -> None:
    assert torch.allclose(reversed_triggers.norms, reversed_triggers.masks.sum((1, 2, 3)))
    assert reversed_triggers.masks.min() >= 0
    assert reversed_triggers.masks.max() <= 1


def test_the_benign_twin_needs_a_larger_trigger(
    benign: Classifier, reversed_triggers: ReversedTriggers, poisoned: Poisoned
) -> None:
    twin = neural_cleanse(benign, noisy_stripes(200, seed=5), num_classes=4, steps=120, seed=0)
    assert twin.triggers.norms[0] > 2 * reversed_triggers.norms[0]


def test_the_model_is_left_as_it_was(suspect: Classifier) -> None:
    model = copy.deepcopy(suspect).train()
    before = copy.deepcopy(model)
    neural_cleanse(model, noisy_stripes(40), num_classes=4, steps=10)
    assert same_state(model, before)
    assert model.training
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())


def test_the_seed_decides(suspect: Classifier) -> None:
    one, same, other = (
        neural_cleanse(suspect, noisy_stripes(40), num_classes=4, steps=10, seed=seed).triggers.patterns
        for seed in (0, 0, 1)
    )
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
