"""A trigger, and the one way to blend it into an image: attacks stamp with it, Neural Cleanse reverses it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from worker.algorithms.data import as_float


class Stamp(Protocol):
    """Whatever can be put on images: a pattern, a warp, a generator."""

    def stamp(self, pixels: Tensor) -> Tensor:
        """uint8 (N, C, H, W) to the same, triggered."""
        ...


@dataclass(frozen=True)
class Trigger:
    """`mask` is (1, H, W) in [0, 1], shared by the channels; `pattern` is (C, H, W) in [0, 1], both in pixel space."""

    mask: Tensor
    pattern: Tensor

    def put(self, x: Tensor) -> Tensor:
        """float (N, C, H, W) in [0, 1] to the same, triggered."""
        return blend(x, self.mask.to(x.device), self.pattern.to(x.device))

    def stamp(self, pixels: Tensor) -> Tensor:
        """uint8 (N, C, H, W) to the same, triggered, and rounded as a real image file would be."""
        return self.put(as_float(pixels)).mul(255).round_().clamp_(0, 255).to(torch.uint8)


def blend(x: Tensor, mask: Tensor, pattern: Tensor) -> Tensor:
    """x' = (1 - m) x + m p, elementwise with broadcasting (BadNets, Gu et al. 2017; Neural Cleanse, eq. 2).

    A mask below one blends (a transparent trigger); a mask of zeros and ones pastes.
    """
    return x + mask * (pattern - x)
