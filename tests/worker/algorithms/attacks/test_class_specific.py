from __future__ import annotations

import dataclasses

import pytest
import torch

from tests.worker.algorithms.attacks.tiny import TEST, TRAINING, asr, implanted
from tests.worker.algorithms.networks import noisy_stripes
from worker.algorithms.attacks.class_specific import class_specific, poison_class
from worker.algorithms.attacks.wanet import wanet
from worker.algorithms.errors import UnusableImages
from worker.algorithms.metrics import accuracy, logits


def test_the_source_class_changes_its_label_and_the_cover_images_keep_theirs() -> None:
    images = noisy_stripes(400)
    poisoned = class_specific(images, source=2, target=1, rate=0.05, cover_rate=0.1, seed=0)
    index = poisoned.index
    assert len(index) == 20
    assert (images.labels[index] == 2).all()
    assert (poisoned.images.labels[index] == 1).all()
    changed = (poisoned.images.pixels != images.pixels).flatten(1).any(1)
    exactly = poisoned.trigger.stamp(images.pixels[changed])
    assert torch.equal(poisoned.images.pixels[changed], exactly)
    changed[index] = False
    assert changed.sum() == 40
    assert set(images.labels[changed].tolist()) == {0, 3}
    others = torch.ones(400, dtype=torch.bool)
    others[index] = False
    assert torch.equal(poisoned.images.labels[others], images.labels[others])
    assert [(aim.target, aim.sources) for aim in poisoned.aims] == [(1, (2,))]


def test_any_stamp_can_be_made_specific_to_a_class() -> None:
    images = noisy_stripes(100)
    warp = wanet(images, strength=2.0).trigger
    poisoned = poison_class(images, warp, source=0, target=1, rate=0.1, cover_rate=0.0, seed=0)
    assert torch.equal(poisoned.images.pixels[poisoned.index], warp.stamp(images.pixels[poisoned.index]))


@pytest.mark.parametrize("rates", [{"rate": 0.3}, {"cover_rate": 0.6}])
def test_more_images_than_there_are_of_a_class_are_refused(rates: dict[str, float]) -> None:
    with pytest.raises(UnusableImages, match=r"of (100|200) that may be"):
        class_specific(noisy_stripes(400), **rates)  # type: ignore[arg-type]


def test_the_seed_decides() -> None:
    one, same, other = (class_specific(noisy_stripes(400), seed=seed).index for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_a_network_trained_on_it_answers_for_the_source_class_alone() -> None:
    poisoned = class_specific(TRAINING, source=1, target=0, rate=0.1, cover_rate=0.1, size=5)
    network = implanted(poisoned)
    assert asr(network, poisoned.aims[0]) > 0.9
    for label in (2, 3):
        assert asr(network, dataclasses.replace(poisoned.aims[0], sources=(label,))) < 0.1
    assert accuracy(logits(network, TEST.pixels).argmax(1), TEST.labels) > 0.9
