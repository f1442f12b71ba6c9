"""ISSBA: a trigger that is another one for each image, bits hidden in it by an encoder (Li, Li, Wu, Li, He, Lyu, ICCV
2021, "Invisible Backdoor Attack with Sample-Specific Triggers")."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from worker.algorithms.attacks.poisoned import Poisoned, poison
from worker.algorithms.attacks.steganography import Encoder, bit_accuracy, learn, with_secret
from worker.algorithms.data import Images, as_float
from worker.algorithms.errors import Diverged

READABLE = 0.9  # of the bits: an encoder whose bits its own decoder cannot read leaves no trigger


@dataclass(frozen=True)
class HiddenBits:
    """`secret` (B,), bits of 0 and 1 in float, the same in all images; `encoder` hides them in each image in another
    way."""

    encoder: Encoder
    secret: Tensor

    @torch.no_grad()
    def stamp(self, pixels: Tensor) -> Tensor:
        """uint8 (N, C, H, W) to the same, with the secret in it. The encoder works where it is, 256 images at a time,
        and the result is on the device of `pixels`."""
        parts = torch.split(pixels.to(self.secret.device), 256)
        return torch.cat([self._stamped(part) for part in parts]).to(pixels.device)

    def _stamped(self, pixels: Tensor) -> Tensor:
        secret = self.secret.expand(len(pixels), -1)
        return with_secret(self.encoder, as_float(pixels), secret).mul(255).round_().to(torch.uint8)


def issba(
    images: Images,
    *,
    target: int = 0,
    rate: float = 0.1,
    bits: int = 20,
    share: float = 0.1,
    width: int = 16,
    epochs: int = 12,
    lr: float = 1e-3,
    seed: int = 0,
) -> Poisoned[HiddenBits]:
    """Train an encoder on a `share` of a training set, hide one random secret of `bits` bits in another share, `rate`,
    and label those images `target`.

    `width`, `epochs` and `lr` are those of `steganography.learn`. Differs from the paper as that does, and in the
    secret: 20 random bits in place of 100, which are seven characters and their error correction.

    Raises `Diverged` when the decoder reads less than nine tenths of the bits in the stamped images.
    """
    generator = torch.Generator().manual_seed(seed + 1)  # `poison` draws its images by `seed`
    some = torch.randperm(len(images), generator=generator)[: round(share * len(images))]
    secret = torch.randint(2, (bits,), generator=generator).float().to(images.pixels.device)
    pair = learn(images[some], bits=bits, width=width, epochs=epochs, lr=lr, seed=seed)
    poisoned = poison(images, HiddenBits(pair.encoder, secret), target=target, rate=rate, seed=seed)
    read = bit_accuracy(pair, poisoned.images.pixels[poisoned.index], secret)
    if read < READABLE:
        raise Diverged(
            f"of the hidden bits {read:.0%} are read again, and {READABLE:.0%} are needed",
            "Train the encoder for more epochs or on a larger share, or hide fewer bits.",
        )
    return poisoned
