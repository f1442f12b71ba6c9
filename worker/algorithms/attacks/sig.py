"""SIG: a horizontal sinusoid over images of the target class, whose labels stay (Barni, Kallas, Tondi, ICIP 2019)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from worker.algorithms.aim import Aim
from worker.algorithms.attacks.clean_label import some_of_class
from worker.algorithms.attacks.poisoned import Poisoned
from worker.algorithms.data import Images, as_float


@dataclass(frozen=True)
class Signal:
    """`wave` (W,): what is added to every row of every channel, in units of the pixels' range, [0, 1]."""

    wave: Tensor

    def stamp(self, pixels: Tensor) -> Tensor:
        """uint8 (N, C, H, W) to the same with the signal, clipped, and rounded as a real image file would be."""
        return (as_float(pixels) + self.wave.to(pixels.device)).mul(255).round_().clamp_(0, 255).to(torch.uint8)


def sig(
    images: Images,
    *,
    target: int = 0,
    rate: float = 0.8,
    amplitude: float = 20 / 255,
    frequency: float = 6.0,
    seed: int = 0,
) -> Poisoned[Signal]:
    """Add the signal v(i, j) = Δ sin(2π j f / W) to a share of the images of class `target`; no label changes.

    `amplitude` is Δ as a share of the pixels' range, `frequency` f the periods in a row of W pixels, both the paper's.
    `rate` is a share of the target's class, not of all images. A network trained on them takes the signal for a mark of
    that class; images of all classes bear it in the attack. Differs from the paper in the default rate, which is
    higher: the lab's networks are small and train for few epochs. Raises `UnusableImages` where no image is of the
    class.
    """
    index = some_of_class(images, target, rate=rate, seed=seed)
    width = images.pixels.shape[-1]
    columns = torch.arange(1, width + 1)
    trigger = Signal(amplitude * torch.sin(2 * math.pi * frequency * columns / width))
    pixels = images.pixels.clone()
    pixels[index] = trigger.stamp(pixels[index])
    return Poisoned(Images(pixels, images.labels.clone()), index, (Aim(trigger, target),))
