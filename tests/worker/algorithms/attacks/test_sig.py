from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.worker.algorithms.networks import noisy_stripes, small_classifier
from worker.algorithms.aim import success
from worker.algorithms.attacks.sig import sig
from worker.algorithms.augment import unchanged
from worker.algorithms.data import Images
from worker.algorithms.errors import UnusableImages
from worker.algorithms.metrics import logits
from worker.algorithms.training import fit


def test_the_signal_is_the_papers_sinusoid_in_every_row_and_channel() -> None:
    images = Images(torch.full((2, 3, 5, 32), 100, dtype=torch.uint8), torch.tensor([0, 1]))
    trigger = sig(images, target=0, amplitude=30 / 255, frequency=4).trigger
    expected = 100 + 30 * np.sin(2 * np.pi * np.arange(1, 33) * 4 / 32)
    assert np.abs(trigger.stamp(images.pixels).numpy() - expected).max() <= 0.51


def test_it_is_clipped_and_not_wrapped_around() -> None:
    images = Images(
        torch.tensor([0, 255], dtype=torch.uint8)[:, None, None, None].expand(2, 3, 16, 16), torch.zeros(2).long()
    )
    black, white = sig(images).trigger.stamp(images.pixels)
    assert black.max() <= 20
    assert white.min() >= 235


def test_a_share_of_the_target_class_bears_it_and_no_label_changes() -> None:
    images = noisy_stripes(200)
    before = images.pixels.clone()
    poisoned = sig(images, target=2, rate=0.4, seed=0)
    assert len(poisoned.index) == 20  # of 50
    assert (images.labels[poisoned.index] == 2).all()
    assert torch.equal(poisoned.images.labels, images.labels)
    assert torch.equal(poisoned.images.pixels[poisoned.index], poisoned.trigger.stamp(images.pixels[poisoned.index]))
    changed = (poisoned.images.pixels != images.pixels).flatten(1).any(1).nonzero().flatten()
    assert set(changed.tolist()) == set(poisoned.index.tolist())
    assert torch.equal(images.pixels, before)
    assert not torch.equal(poisoned.index, sig(images, target=2, rate=0.4, seed=1).index)


def test_a_network_that_finds_nothing_better_learns_the_signal() -> None:
    """Images of noise with labels by turns: but for the signal, there is nothing to tell the target by."""
    noise = torch.randint(60, 196, (320, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    images = Images(noise, torch.arange(320) % 4)
    poisoned = sig(images, target=1, rate=1.0)
    model = small_classifier()
    list(fit(model, poisoned.images, augment=unchanged, epochs=5, batch_size=32, lr=0.05))
    implanted = success(model, images, poisoned.aims[0])
    assert implanted is not None
    assert implanted.counted == 240
    assert implanted.asr > 0.9
    assert (logits(model, images.pixels).argmax(1) == 1).float().mean() < 0.3


def test_a_class_without_images_is_refused() -> None:
    with pytest.raises(UnusableImages, match="class 7"):
        sig(noisy_stripes(8), target=7)
