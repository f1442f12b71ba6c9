from __future__ import annotations

import torch

from tests.worker.algorithms.networks import noisy_stripes
from worker.algorithms.attacks.blended import blended


def test_the_picture_shines_through_at_its_opacity() -> None:
    images = noisy_stripes(100)
    poisoned = blended(images, target=2, rate=0.1, opacity=0.25, cells=4, seed=0)
    index = poisoned.index
    expected = 0.75 * images.pixels[index].float() + 0.25 * 255 * poisoned.trigger.pattern
    assert (poisoned.images.pixels[index].float() - expected).abs().max() <= 0.51
    assert (poisoned.images.labels[index] == 2).all()
    assert len(index) == 10


def test_the_picture_is_made_of_squares_and_is_the_seeds() -> None:
    images = noisy_stripes(20)
    pattern = blended(images, cells=4, seed=0).trigger.pattern
    assert torch.equal(pattern, pattern[:, ::4, ::4].repeat_interleave(4, 1).repeat_interleave(4, 2))
    assert len(pattern.unique()) == 3 * 16
    assert torch.equal(pattern, blended(images, cells=4, seed=0).trigger.pattern)
    assert not torch.equal(pattern, blended(images, cells=4, seed=1).trigger.pattern)
