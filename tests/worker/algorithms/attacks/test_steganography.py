from __future__ import annotations

import pytest
import torch

from tests.worker.algorithms.networks import noisy_stripes, same_state
from worker.algorithms.attacks.steganography import Decoder, Encoder, Steganography, bit_accuracy, learn, with_secret
from worker.algorithms.data import Images, as_float

BITS = 6


@pytest.fixture(scope="module")
def pair() -> Steganography:
    return learn(noisy_stripes(400), bits=BITS, width=4, epochs=6, secret_epochs=2, batch_size=16, lr=5e-3, seed=0)


def hidden(pair: Steganography, pixels: torch.Tensor, secret: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return with_secret(pair.encoder, as_float(pixels), secret.expand(len(pixels), -1)).mul(255).byte()


def test_bits_are_read_again_from_the_eight_bits_of_a_file_and_hardly_seen(pair: Steganography) -> None:
    pixels = noisy_stripes(200, seed=9).pixels
    for secret in (torch.tensor([0.0, 1, 1, 0, 1, 0]), torch.tensor([1.0, 1, 0, 0, 0, 1])):
        files = hidden(pair, pixels, secret)
        assert bit_accuracy(pair, files, secret) >= 0.9
        assert bit_accuracy(pair, files, 1 - secret) <= 0.1
        noise = (files.double() - pixels.double()).square().mean() / 255**2
        assert -10 * noise.log10() >= 20  # dB


def test_other_bits_and_other_images_give_other_residuals(pair: Steganography) -> None:
    pixels = noisy_stripes(2, seed=9).pixels
    one, other = hidden(pair, pixels, torch.zeros(BITS)), hidden(pair, pixels, torch.ones(BITS))
    assert not torch.equal(one, other)
    residuals = one.int() - pixels.int()
    assert not torch.equal(residuals[0], residuals[1])


def test_an_image_with_bits_in_it_has_the_levels_of_a_file_and_lets_the_gradient_through() -> None:
    x = torch.full((1, 1, 4, 4), 0.5, requires_grad=True)
    result = with_secret(lambda x, secret: 0.3 * x, x, torch.zeros(1, BITS))  # type: ignore[arg-type]
    assert torch.allclose(result * 255, torch.full_like(x, 166))  # 1.3 · 0.5 · 255 = 165.75
    result.sum().backward()
    assert torch.allclose(x.grad, torch.full_like(x, 1.3))  # type: ignore[arg-type]
    bright = with_secret(lambda x, secret: x, torch.full((1, 1, 4, 4), 0.9), torch.zeros(1, BITS))  # type: ignore[arg-type]
    assert torch.equal(bright, torch.ones(1, 1, 4, 4))


@pytest.mark.parametrize(("channels", "height", "width"), [(1, 28, 28), (3, 32, 32), (3, 18, 30)])
def test_any_size_and_grey_or_colour(channels: int, height: int, width: int) -> None:
    x, secret = torch.rand(2, channels, height, width), torch.zeros(2, BITS)
    assert Encoder(channels, BITS, 4)(x, secret).shape == x.shape
    assert Decoder(channels, BITS, 4)(x).shape == (2, BITS)


def test_the_seed_decides_and_the_callers_randomness_is_not_touched() -> None:
    images = Images(noisy_stripes(20).pixels[:, :1], noisy_stripes(20).labels)
    before = torch.random.get_rng_state()
    one, same, other = (learn(images, bits=2, width=2, epochs=2, secret_epochs=1, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert same_state(one, same)
    assert not same_state(one, other)
    assert not any(module.training for module in one.modules())
