from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.worker.algorithms.networks import noisy_stripes, same_state
from worker.algorithms.attacks.poisoned import Poisoned
from worker.algorithms.classifier import Classifier
from worker.algorithms.data import Images
from worker.algorithms.detectors.strip import strip
from worker.algorithms.triggers import Trigger


def triggered(poisoned: Poisoned[Trigger]) -> Images:
    images = noisy_stripes(40, seed=7)
    return Images(poisoned.trigger.stamp(images.pixels), images.labels)


def test_triggered_images_stay_certain_on_the_suspect_and_not_on_the_twin(
    suspect: Classifier, benign: Classifier, poisoned: Poisoned[Trigger]
) -> None:
    clean = noisy_stripes(60, seed=5)
    seen = strip(suspect, clean, triggered(poisoned), overlays=16, false_rejection=0.1)
    unseen = strip(benign, clean, triggered(poisoned), overlays=16, false_rejection=0.1)
    assert seen.flagged_share > 0.7
    assert unseen.flagged_share < 0.3
    assert seen.entropies.median() < seen.clean_entropies.median() / 5


def test_clean_images_are_flagged_at_the_rate_asked_for(suspect: Classifier) -> None:
    found = strip(suspect, noisy_stripes(80, seed=5), noisy_stripes(80, seed=8), overlays=8, false_rejection=0.2)
    assert 0.05 < found.flagged_share < 0.45
    assert float((found.clean_entropies < found.threshold).float().mean()) == pytest.approx(0.2, abs=0.02)


class Brightness(nn.Module):
    """Two labels by the mean brightness of an image."""

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean((1, 2, 3))
        return torch.stack([8 * mean, 8 * (1 - mean)], dim=1)


@pytest.mark.parametrize("at_once", [1, 3, 64])
def test_entropy_is_that_of_the_formula(at_once: int) -> None:
    # Every clean image is the same, so it does not matter which are drawn.
    clean = Images(torch.full((5, 1, 2, 2), 51, dtype=torch.uint8), torch.zeros(5, dtype=torch.int64))
    tested = Images(torch.tensor([0, 51, 255], dtype=torch.uint8).view(3, 1, 1, 1).expand(3, 1, 2, 2), clean.labels[:3])
    found = strip(Brightness(), clean, tested, overlays=4, strength=0.5, at_once=at_once)
    mean = np.minimum(np.array([0, 0.2, 1]) + 0.5 * 0.2, 1)
    chance = 1 / (1 + np.exp(8 * (1 - mean) - 8 * mean))
    entropy = -chance * np.log2(chance) - (1 - chance) * np.log2(1 - chance)
    assert found.entropies.numpy() == pytest.approx(entropy, rel=1e-2)
    assert found.threshold == pytest.approx(entropy[1], rel=1e-2)
    assert found.flagged.tolist() == [entropy[0] < found.threshold, False, entropy[2] < found.threshold]


def test_the_seed_decides_and_the_model_is_left_as_it_was(suspect: Classifier) -> None:
    model, images = copy.deepcopy(suspect).train(), noisy_stripes(8)
    before = copy.deepcopy(model)
    one, same, other = (strip(model, images, images, overlays=2, seed=seed).entropies for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert same_state(model, before)
    assert model.training
