"""The shapes that a trigger can have, and the places where it can lie (TrojanNN, Liu et al. 2018; SAGE, Table IX)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from worker.algorithms.errors import UnfitOptions

Shape = Literal["triangle", "square", "hexagon", "circle", "parallelogram", "quadrant", "semicircle"]
Place = Literal["lower_right", "lower_left", "upper_right", "upper_left", "center"]

SHAPES: dict[Shape, Callable[[Tensor, Tensor], Tensor]] = {
    "triangle": lambda x, y: 2 * x.abs() <= 1 + y,  # the point is on top
    "square": lambda x, y: torch.maximum(x.abs(), y.abs()) <= 1,
    "hexagon": lambda x, y: torch.maximum(2 * y.abs(), math.sqrt(3) * x.abs() + y.abs()) <= math.sqrt(3),
    "circle": lambda x, y: x**2 + y**2 <= 1,
    "parallelogram": lambda x, y: (3 * x + y).abs() <= 2,
    "quadrant": lambda x, y: (x - 1) ** 2 + (y - 1) ** 2 <= 4,  # the right angle is at the lower right
    "semicircle": lambda x, y: x**2 + (y - 1) ** 2 <= 1,  # the straight side is at the bottom
}
"""Whether the point (x, y) belongs to a shape. Both are in [-1, 1], x to the right and y down."""

PLACES: dict[Place, tuple[float, float]] = {
    "lower_right": (1, 1),
    "lower_left": (1, 0),
    "upper_right": (0, 1),
    "upper_left": (0, 0),
    "center": (0.5, 0.5),
}
"""How far down and how far to the right, of the way that is free between the margins."""

INSIDE = 1 - 1e-5  # a center on the edge of a shape, all of which hold (0, 0), is moved inside, however it is rounded


def shape_mask(
    shape: Shape,
    image_size: tuple[int, int],
    *,
    size: int,
    margin: int = 1,
    place: Place = "lower_right",
    transparency: float = 0.0,
) -> Tensor:
    """A mask (1, H, W) for images of `image_size` (H, W): 1 - `transparency` within the shape, 0 elsewhere. The shape
    is drawn in a square of `size` pixels, which lies at `place` and at least `margin` pixels from the edges.

    A pixel belongs to the shape where its center does, the edge included. `transparency` is from 0, opaque, to below 1.
    Raises `UnfitOptions` for a shape or a place that there is none of, and for a number that does not fit.
    """
    if shape not in SHAPES:
        raise UnfitOptions(f"there is no shape {shape!r}", f"Name one of {', '.join(SHAPES)}.")
    if not 0 <= transparency < 1:
        raise UnfitOptions(f"a transparency of {transparency} leaves no trigger", "Take one from 0 to below 1.")
    top, left = corner(image_size, size=size, margin=margin, place=place)
    centers = INSIDE * ((2 * torch.arange(size) + 1) / size - 1)
    mask = torch.zeros(1, *image_size)
    mask[0, top : top + size, left : left + size] = SHAPES[shape](centers, centers[:, None])
    return mask * (1 - transparency)


def corner(image_size: tuple[int, int], *, size: int, margin: int, place: Place) -> tuple[int, int]:
    """The first row and the first column of a square of `size` pixels at `place`. Raises `UnfitOptions`."""
    if place not in PLACES:
        raise UnfitOptions(f"there is no place {place!r}", f"Name one of {', '.join(PLACES)}.")
    free = [side - size - 2 * margin for side in image_size]
    if size < 1 or margin < 0 or min(free) < 0:
        raise UnfitOptions(
            f"a trigger of {size} pixels with a margin of {margin} does not fit into {image_size[0]}×{image_size[1]}",
            "Take a size of at least 1 and a margin of at least 0; size + 2 · margin may be the image's side at most.",
        )
    down, right = (margin + int(way * share) for way, share in zip(free, PLACES[place], strict=True))
    return down, right
