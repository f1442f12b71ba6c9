from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tests.worker.algorithms.networks import noisy_stripes
from worker.algorithms.attacks.poisoned import Poisoned
from worker.algorithms.classifier import Classifier
from worker.algorithms.data import Images
from worker.algorithms.detectors.activation_clustering import activation_clustering
from worker.algorithms.triggers import Trigger

CLEAN = noisy_stripes(240, seed=5)


def partly_triggered(poisoned: Poisoned[Trigger], count: int) -> Images:
    """The first `count` of 80 images with the trigger."""
    images = noisy_stripes(80, seed=7)
    stamped = poisoned.trigger.stamp(images.pixels[:count])
    return Images(torch.cat([stamped, images.pixels[count:]]), images.labels)


@pytest.mark.parametrize("count", [80, 24])  # all of them, or fewer than are honest
def test_triggered_images_are_a_cluster_of_their_own_on_the_suspect(
    count: int, suspect: Classifier, poisoned: Poisoned[Trigger]
) -> None:
    found = activation_clustering(suspect, CLEAN, partly_triggered(poisoned, count), num_classes=4)
    size, silhouette = found.relative_sizes[0], found.silhouettes[0]
    assert found.flagged_labels == [0]
    assert size is not None
    assert size < 0.1
    assert silhouette is not None
    assert silhouette > 0.2
    led_astray = noisy_stripes(80, seed=7).labels != 0
    assert found.flagged[:count][led_astray[:count]].float().mean() > 0.9
    assert not found.flagged[count:].any()


def test_on_the_twin_they_are_not(benign: Classifier, poisoned: Poisoned[Trigger]) -> None:
    found = activation_clustering(benign, CLEAN, partly_triggered(poisoned, 80), num_classes=4)
    assert (found.flagged_labels, found.flagged.any().item()) == ([], False)
    assert all(size is not None and size > 0.4 for size in found.relative_sizes)


def test_a_class_with_few_images_is_left_alone(suspect: Classifier) -> None:
    found = activation_clustering(suspect, CLEAN, noisy_stripes(20, seed=7), num_classes=4)
    assert found.silhouettes == found.relative_sizes == [None] * 4


class Constant(nn.Module):
    """Features that are the same for every image."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(0 * x.mean((2, 3)))  # type: ignore[no-any-return]


def test_features_that_are_all_the_same_are_one_cluster_of_both() -> None:
    found = activation_clustering(Constant(), CLEAN, CLEAN, num_classes=4)
    measured = [(size, far) for size, far in zip(found.relative_sizes, found.silhouettes, strict=True) if size]
    assert measured == [(1.0, 0.0)]
    assert found.flagged_labels == []
