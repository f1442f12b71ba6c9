from __future__ import annotations

import numpy as np
import torch

from tests.worker.algorithms.networks import noisy_stripes
from tests.worker.algorithms.test_warp import identity
from worker.algorithms.attacks.wanet import wanet


def test_a_warp_is_that_of_bilinear_sampling_written_by_hand() -> None:
    pixels = noisy_stripes(1).pixels
    poisoned = wanet(noisy_stripes(50), strength=2.0, seed=3)
    x, y = ((poisoned.trigger.grid + 1) / 2 * 15).double().numpy().transpose(2, 0, 1)
    image = pixels[0].double().numpy()
    left, top = np.floor(x).astype(int).clip(0, 14), np.floor(y).astype(int).clip(0, 14)
    dx, dy = x - left, y - top
    expected = (
        (1 - dy) * ((1 - dx) * image[:, top, left] + dx * image[:, top, left + 1])
        + dy * ((1 - dx) * image[:, top + 1, left] + dx * image[:, top + 1, left + 1])
    )  # fmt: skip
    got = poisoned.trigger.stamp(pixels)[0].double().numpy()
    assert np.abs(got - expected).max() <= 0.51


def test_shifts_are_half_of_the_strength_in_pixels_and_smooth() -> None:
    for strength in (0.5, 2.0):
        trigger = wanet(noisy_stripes(20), strength=strength, seed=0).trigger
        shifts = (trigger.grid - identity(16, 16)) * 15 / 2
        assert 0.3 * strength < shifts[3:-3, 3:-3].abs().mean() < 0.8 * strength
        assert (shifts[1:] - shifts[:-1]).abs().max() < 0.9 * strength


def test_cover_images_are_warped_otherwise_and_keep_their_labels() -> None:
    images = noisy_stripes(200)
    poisoned = wanet(images, target=3, rate=0.1, cover_rate=0.2, strength=2.0, seed=0)
    changed = (poisoned.images.pixels != images.pixels).flatten(1).any(1)
    relabelled = torch.zeros(200, dtype=torch.bool)
    relabelled[poisoned.index] = True
    assert changed.sum() == 20 + 40
    assert (poisoned.images.labels[relabelled] == 3).all()
    assert torch.equal(poisoned.images.labels[~relabelled], images.labels[~relabelled])
    cover = changed & ~relabelled
    exactly = poisoned.trigger.stamp(images.pixels[cover])
    assert (poisoned.images.pixels[cover] != exactly).flatten(1).any(1).all()
