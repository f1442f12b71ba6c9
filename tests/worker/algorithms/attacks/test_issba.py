from __future__ import annotations

import pytest
import torch

from tests.worker.algorithms.networks import noisy_stripes
from worker.algorithms.attacks.issba import HiddenBits, issba
from worker.algorithms.attacks.poisoned import Poisoned
from worker.algorithms.attacks.steganography import Encoder
from worker.algorithms.errors import Diverged

IMAGES = noisy_stripes(600, seed=1)


@pytest.fixture(scope="module")
def attack() -> Poisoned[HiddenBits]:
    return issba(IMAGES, target=3, rate=0.1, bits=4, share=0.5, width=4, epochs=12, lr=5e-3, seed=0)


def test_the_demanded_share_has_the_bits_and_the_label_and_nothing_else(attack: Poisoned[HiddenBits]) -> None:
    changed = (attack.images.pixels != IMAGES.pixels).flatten(1).any(1)
    assert changed.nonzero().flatten().tolist() == attack.index.sort().values.tolist()
    assert len(attack.index) == 60
    assert (attack.images.labels[attack.index] == 3).all()
    assert torch.equal(attack.images.labels[~changed], IMAGES.labels[~changed])
    assert attack.aims[0].target == 3


def test_each_image_has_a_trigger_of_its_own(attack: Poisoned[HiddenBits]) -> None:
    residuals = attack.images.pixels[attack.index].int() - IMAGES.pixels[attack.index].int()
    assert len(residuals.unique(dim=0)) == len(residuals)


def test_many_images_are_stamped_as_few_are(attack: Poisoned[HiddenBits]) -> None:
    trigger = attack.trigger
    stamped = trigger.stamp(IMAGES.pixels)
    assert stamped.shape == IMAGES.pixels.shape
    assert stamped.dtype == torch.uint8
    alone = trigger.stamp(IMAGES.pixels[500:510])
    assert (stamped[500:510].int() - alone.int()).abs().max() <= 1  # sums over another batch may round otherwise


def test_the_stamp_adds_the_encoders_residual_to_the_image() -> None:
    encoder = Encoder(3, 4, 4).eval()
    torch.nn.init.zeros_(encoder.residual.weight)
    with torch.no_grad():
        encoder.residual.bias.copy_(torch.tensor([10.4, 0, -10.4]) / 255)
    pixels = torch.tensor([100, 7, 5], dtype=torch.uint8).view(1, 3, 1, 1).expand(2, 3, 16, 16)
    stamped = HiddenBits(encoder, torch.ones(4)).stamp(pixels)
    assert torch.equal(stamped, torch.tensor([110, 7, 0], dtype=torch.uint8).view(1, 3, 1, 1).expand(2, 3, 16, 16))


def test_an_encoder_that_learned_nothing_is_refused() -> None:
    with pytest.raises(Diverged, match="bits"):
        issba(noisy_stripes(100), bits=20, share=0.2, width=2, epochs=2)
