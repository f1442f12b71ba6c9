from __future__ import annotations

import torch

from tests.worker.algorithms.networks import noisy_stripes
from worker.algorithms.attacks.badnets import badnets, checkerboard
from worker.algorithms.attacks.poisoned import Poisoned
from worker.algorithms.classifier import Classifier
from worker.algorithms.data import Images
from worker.algorithms.metrics import attack_success, logits


def test_the_demanded_share_is_stamped_and_relabelled_and_nothing_else() -> None:
    images = noisy_stripes(200)
    poisoned = badnets(images, target=3, rate=0.1, size=3, margin=1, seed=0)
    assert len(poisoned.index) == 20
    changed = (poisoned.images.pixels != images.pixels).flatten(1).any(1)
    assert set(changed.nonzero().flatten().tolist()) <= set(poisoned.index.tolist())
    assert (poisoned.images.labels[poisoned.index] == 3).all()
    others = torch.ones(200, dtype=torch.bool)
    others[poisoned.index] = False
    assert torch.equal(poisoned.images.labels[others], images.labels[others])
    patch = poisoned.images.pixels[poisoned.index][:, :, 12:15, 12:15]
    assert (patch == poisoned.trigger.pattern[:, 12:15, 12:15].mul(255).byte()).all()


def test_the_patch_is_where_it_should_be() -> None:
    trigger = checkerboard((3, 8, 8), size=3, margin=1)
    rows, columns = trigger.mask[0].nonzero(as_tuple=True)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (4, 6, 4, 6)
    assert trigger.pattern[0, 4:7, 4:7].tolist() == [[1, 0, 1], [0, 1, 0], [1, 0, 1]]


def test_the_images_given_are_not_changed_and_the_seed_decides() -> None:
    images = noisy_stripes(100)
    before = images.pixels.clone(), images.labels.clone()
    one, same, other = (badnets(images, seed=seed).index for seed in (0, 0, 1))
    assert torch.equal(images.pixels, before[0])
    assert torch.equal(images.labels, before[1])
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_a_network_trained_on_it_has_a_backdoor_and_its_twin_has_none(
    suspect: Classifier, benign: Classifier, poisoned: Poisoned
) -> None:
    images = noisy_stripes(400, seed=9)
    stamped = Images(poisoned.trigger.stamp(images.pixels), images.labels)
    for model, lowest, highest in ((suspect, 0.9, 1.0), (benign, 0.0, 0.2)):
        success = attack_success(logits(model, stamped.pixels).argmax(1), stamped, torch.zeros(400, dtype=torch.int64))
        assert success is not None
        assert lowest <= success.asr <= highest
