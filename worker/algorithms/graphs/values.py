"""What is known of a graph's values before it runs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from worker.algorithms.graphs.errors import FixedBatch, UnfitGraph
from worker.algorithms.graphs.graph import Node


@dataclass(frozen=True)
class Known:
    """A value that no image changes. `at` is what it is at each probed batch size: a shape may depend on that.

    `tensor` is the name of the file's tensor that it is, its axes in the order `permutation` where that is not None.
    """

    at: tuple[Tensor, ...]
    tensor: str | None = None
    permutation: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Running:
    """A value that the images change. `at` are tensors without numbers: what it is like at each probed batch size."""

    at: tuple[Tensor, ...]

    @property
    def shape(self) -> torch.Size:
        return self.at[0].shape

    @property
    def growing(self) -> list[int]:
        """The axes that grow with the number of images, as far as more than one was probed."""
        return [
            axis
            for axis, sizes in enumerate(zip(*[each.shape for each in self.at], strict=True))
            if len(set(sizes)) > 1
        ]


Value = Known | Running


@dataclass(frozen=True)
class Held:
    """A weight of a module, by its `name` there; the file's tensor that it is, its axes in the order `permutation`; and
    the position at which its node reads it."""

    name: str
    tensor: str
    position: int
    permutation: tuple[int, ...] | None


@dataclass(frozen=True)
class Layer:
    """A module that reads the inputs `reads` of its node, by position, when it runs."""

    module: nn.Module
    reads: tuple[int, ...] = (0,)
    held: tuple[Held, ...] = ()


class Operation(nn.Module):
    """A function without weights. It is a module so that hooks see its output."""

    def __init__(self, name: str, function: object) -> None:
        super().__init__()
        self.name = name
        self.function = function

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.function(*inputs)  # type: ignore[operator, no-any-return]

    def extra_repr(self) -> str:
        return self.name


def settled(node: Node, value: Known | None) -> Tensor | None:
    """A constant that has to be the same at every batch size."""
    if value is None:
        return None
    if any(not torch.equal(value.at[0], other) for other in value.at[1:]):
        raise FixedBatch(f"{node} is told something that depends on the number of images")
    return value.at[0]


def at_every_batch(node: Node, shapes: list[list[int]]) -> tuple[int, ...]:
    """Sizes for a reshape, -1 where they grow with the batch: told by two batch sizes, or else taken to be the first.

    A file with a fixed batch has only one; that its first axis is the images is checked against the file itself.
    """
    sizes = [list(each) for each in zip(*shapes, strict=True)]
    growing = [place for place, each in enumerate(sizes) if len(set(each)) > 1] if len(shapes) > 1 else [0]
    if len(growing) > 1:
        raise FixedBatch(f"{node} makes several axes that depend on the number of images")
    if not sizes:
        raise UnfitGraph(f"{node} makes a single number of all images")
    return tuple(-1 if place in growing else each[0] for place, each in enumerate(sizes))
