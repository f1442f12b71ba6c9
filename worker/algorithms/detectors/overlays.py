"""Which clean images an image is laid over, when a detector tries it on others."""

from __future__ import annotations

import torch
from torch import Tensor

from worker.algorithms.errors import UnusableImages


def others(images: int, each: int, generator: torch.Generator) -> Tensor:
    """(images, each) places of images, drawn with replacement: a row never has its own.

    An image over itself is no image among others: it would look surer of itself than any other does. Raises
    `UnusableImages` where there is only one image.
    """
    if images < 2:
        raise UnusableImages(f"images are laid over other clean images, and there is only {images}")
    drawn = torch.randint(images - 1, (images, each), generator=generator)
    return drawn + (drawn >= torch.arange(images)[:, None])


def any_of(images: int, rows: int, each: int, generator: torch.Generator) -> Tensor:
    """(rows, each) places of images, drawn with replacement."""
    return torch.randint(images, (rows, each), generator=generator)
