from __future__ import annotations

import pytest
import torch

from tests.worker.algorithms.networks import noisy_stripes
from worker.algorithms.attacks.poisoned import Poisoned
from worker.algorithms.classifier import Classifier
from worker.algorithms.data import Images
from worker.algorithms.detectors.sentinet import Points, SentiNet, _beyond, sentinet
from worker.algorithms.triggers import Trigger

CLEAN = noisy_stripes(48, seed=5)


def look(model: Classifier, poisoned: Poisoned[Trigger]) -> SentiNet:
    images = noisy_stripes(24, seed=7)
    return sentinet(model, CLEAN, Images(poisoned.trigger.stamp(images.pixels), images.labels), overlays=6)


def test_the_trigger_takes_its_label_along(suspect: Classifier, poisoned: Poisoned[Trigger]) -> None:
    found = look(suspect, poisoned)
    assert found.flagged_share > 0.9
    assert found.suspicious.fooled.mean() > 0.9
    assert found.suspicious.confidence.mean() > 0.8  # noise in its place disturbs nobody
    assert found.suspicious.sizes.mean() < 0.3
    assert found.clean.fooled.mean() < 0.7


def test_on_the_twin_it_does_not(benign: Classifier, poisoned: Poisoned[Trigger]) -> None:
    assert look(benign, poisoned).flagged_share < 0.3


def test_the_line_runs_through_the_clean_points() -> None:
    random = torch.Generator().manual_seed(0)
    confidence = torch.rand(200, generator=random)
    usual = Points(0.8 - 0.6 * confidence**2 + 0.02 * torch.randn(200, generator=random), confidence, confidence)
    tested = torch.tensor([0.1, 0.5, 0.9, 0.9])
    found = Points(0.8 - 0.6 * tested**2 + torch.tensor([-0.1, 0.1, 0.1, 0.0]), tested, tested)
    assert _beyond(found, usual, 0.05).tolist() == [False, True, True, False]


def test_points_that_are_all_the_same_make_a_line_too() -> None:
    same = Points(torch.ones(20), torch.ones(20), torch.ones(20))
    assert not _beyond(same, same, 0.05).any()


@pytest.mark.parametrize("at_once", [1, 5])
def test_the_blocks_do_not_matter(at_once: int, suspect: Classifier) -> None:
    images = noisy_stripes(4, seed=3)
    one, other = (sentinet(suspect, images, images, overlays=3, at_once=count).clean for count in (at_once, 100))
    assert torch.allclose(one.fooled, other.fooled)
    assert torch.allclose(one.confidence, other.confidence, atol=1e-2)
