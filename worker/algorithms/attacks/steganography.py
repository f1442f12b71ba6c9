"""Bits hidden in an image, and read from it again: what ISSBA makes its triggers with.

An encoder draws a faint residual r(x, s) from an image and its bits, a decoder reads the bits from x + r (StegaStamp,
Tancik, Mildenhall, Ng, CVPR 2020). Both are trained at once,

    L = 2 ‖r‖² + 1.5 (1 - SSIM(x, x + r)) + 1.5 BCE(decoder(x + r), s),

the first epochs with the last term alone: bits that nobody can read yet would be given up for the sake of the picture.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worker.algorithms.augment import unchanged
from worker.algorithms.data import Images, as_float
from worker.algorithms.ssim import ssim
from worker.algorithms.training import Loss, train

PICTURE, LIKENESS, SECRET = 2.0, 1.5, 1.5  # the weights of the three terms, the paper's
GRID = 8  # bits are spread over GRID × GRID cells, which are then stretched over the image
READ = 4  # the decoder looks at READ × READ cells at the end


class Encoder(nn.Module):
    """Images (N, C, H, W) in [0, 1] and bits (N, B) of 0 and 1 to residuals (N, C, H, W): a U-Net of three resolutions,
    for any height and width of at least 4."""

    def __init__(self, channels: int, bits: int, width: int) -> None:
        super().__init__()
        self.spread = nn.Linear(bits, channels * GRID * GRID)
        self.fine = nn.Conv2d(2 * channels, width, 3, padding=1)
        self.middle = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1)
        self.coarse = nn.Conv2d(2 * width, 2 * width, 3, stride=2, padding=1)
        self.middle_again = nn.Conv2d(4 * width, 2 * width, 3, padding=1)
        self.fine_again = nn.Conv2d(3 * width, width, 3, padding=1)
        self.residual = nn.Conv2d(width, channels, 3, padding=1)

    def forward(self, x: Tensor, secret: Tensor) -> Tensor:
        cells = F.relu(self.spread(2 * secret - 1)).view(len(x), -1, GRID, GRID)
        fine = F.relu(self.fine(torch.cat([x - 0.5, _stretched(cells, x)], dim=1)))
        middle = F.relu(self.middle(fine))
        coarse = F.relu(self.coarse(middle))
        middle = F.relu(self.middle_again(torch.cat([middle, _stretched(coarse, middle)], dim=1)))
        fine = F.relu(self.fine_again(torch.cat([fine, _stretched(middle, fine)], dim=1)))
        return self.residual(fine)  # type: ignore[no-any-return]


class Decoder(nn.Module):
    """Images (N, C, H, W) in [0, 1] to the logits (N, B) of their bits."""

    def __init__(self, channels: int, bits: int, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(channels, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, 2 * width, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(2 * width, 4 * width, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(READ),
            nn.Flatten(),
            nn.Linear(4 * width * READ * READ, bits),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x - 0.5)  # type: ignore[no-any-return]


class Steganography(nn.Module):
    """The pair. Images (N, C, H, W) in [0, 1] and bits (N, B) to the images with the bits in them and the logits of the
    bits read back."""

    def __init__(self, channels: int, bits: int, width: int) -> None:
        super().__init__()
        self.encoder = Encoder(channels, bits, width)
        self.decoder = Decoder(channels, bits, width)

    def forward(self, x: Tensor, secret: Tensor) -> tuple[Tensor, Tensor]:
        hidden = with_secret(self.encoder, x, secret)
        return hidden, self.decoder(hidden).float()


def with_secret(encoder: nn.Module, x: Tensor, secret: Tensor) -> Tensor:
    """x + r(x, s), within [0, 1] and in the 256 levels of an image file, float32 (N, C, H, W). The rounding lets the
    gradient through: residuals that it would wipe out are no use, and the encoder learns so."""
    residual: Tensor = encoder(x, secret)
    hidden = (x + residual.float()).clamp(0, 1)
    return hidden + (hidden.mul(255).round().div(255) - hidden).detach()


def learn(
    images: Images,
    *,
    bits: int = 20,
    width: int = 16,
    epochs: int = 12,
    secret_epochs: int = 3,
    batch_size: int = 32,
    lr: float = 1e-3,
    seed: int = 0,
) -> Steganography:
    """An encoder and a decoder of `bits` bits for images such as `images` (1 or 3 channels), on their device and in
    evaluation mode. The first `secret_epochs` of the `epochs` train for the bits alone; each image gets new random bits
    in each epoch. `width` is the number of channels at full resolution.

    Differs from StegaStamp and ISSBA in 1 - SSIM for LPIPS, which would need the weights of another network; in the
    rounding to 8 bits in place of simulated prints and photographs; in having no critic (ISSBA's is switched off too);
    and in the size: three resolutions for small images, trained in minutes on a CPU.
    """
    device = images.pixels.device
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        pair = Steganography(images.pixels.shape[1], bits, width).to(device)
    optimizer = torch.optim.Adam(pair.parameters(), lr)
    steps = epochs * math.ceil(len(images) / batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    drawn = torch.Generator(device).manual_seed(seed)
    for first, last, weigh in ((0, secret_epochs, _secret_alone), (secret_epochs, epochs, _all_three)):
        training = train(
            pair,
            images,
            first_epoch=first,
            epochs=last,
            batch_size=batch_size,
            optimizer=optimizer,
            loss=_objective(weigh, bits, drawn),
            augment=unchanged,
            seed=seed,
            after_step=schedule.step,
        )
        list(training)
    return pair.eval()


@torch.no_grad()
def bit_accuracy(pair: Steganography, pixels: Tensor, secret: Tensor) -> float:
    """The share of the bits `secret` (B,) that the decoder reads right, over uint8 images (N, C, H, W) that hold it."""
    right = [((pair.decoder(as_float(part)) > 0) == secret.bool()).float().sum() for part in torch.split(pixels, 256)]
    return torch.stack(right).sum().item() / (len(pixels) * len(secret))


Weigh = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Images, images with bits in them, and the cross-entropy of the bits, to a loss."""


def _secret_alone(x: Tensor, hidden: Tensor, entropy: Tensor) -> Tensor:
    return SECRET * entropy


def _all_three(x: Tensor, hidden: Tensor, entropy: Tensor) -> Tensor:
    return PICTURE * F.mse_loss(hidden, x) + LIKENESS * (1 - ssim(hidden, x).mean()) + SECRET * entropy


def _objective(weigh: Weigh, bits: int, drawn: torch.Generator) -> Loss:
    def loss(pair: nn.Module, x: Tensor, labels: Tensor) -> Tensor:
        secret = torch.randint(2, (len(x), bits), generator=drawn, device=x.device).float()
        hidden, read = pair(x, secret)
        return weigh(x, hidden, F.binary_cross_entropy_with_logits(read, secret))

    return loss


def _stretched(maps: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(maps, size=like.shape[-2:], mode="nearest")
