"""What operators are told besides their data: attributes, and constant inputs that later versions made of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from worker.algorithms.graphs.errors import UnfitGraph
from worker.algorithms.graphs.graph import Node


def integer(node: Node, name: str, default: int) -> int:
    value = node.attributes.get(name, default)
    if not isinstance(value, int):
        raise UnfitGraph(f"{node}: the attribute {name} is no whole number")
    return value


def number(node: Node, name: str, default: float) -> float:
    value = node.attributes.get(name, default)
    if not isinstance(value, int | float) or not math.isfinite(value):
        raise UnfitGraph(f"{node}: the attribute {name} is no finite number")
    return float(value)


def text(node: Node, name: str, default: str) -> str:
    return str(node.attributes.get(name, default))


def integers(node: Node, name: str, default: Sequence[int] = ()) -> list[int]:
    value = node.attributes.get(name, list(default))
    if not isinstance(value, list) or not all(isinstance(each, int) for each in value):
        raise UnfitGraph(f"{node}: the attribute {name} is no list of whole numbers")
    return cast("list[int]", value)


def listed(node: Node, name: str, given: Tensor | None) -> list[int] | None:
    """A list that is an attribute in older versions of an operator and an input in newer ones; None where it is
    neither."""
    if given is not None:
        return [int(value) for value in given.flatten().tolist()]
    return integers(node, name) if name in node.attributes else None


def axes_of(node: Node, given: Tensor | None, rank: int) -> list[int] | None:
    axes = listed(node, "axes", given)
    return None if axes is None else [axis_in(node, axis, rank) for axis in axes]


def axis_in(node: Node, axis: int, rank: int) -> int:
    if not -rank <= axis < max(rank, 1):
        raise UnfitGraph(f"{node}: there is no axis {axis} of {rank}")
    return axis % max(rank, 1)


def unsqueezed(node: Node, shape: Sequence[int], axes: Sequence[int]) -> list[int]:
    """`shape` with ones where `axes` says, counted in the result."""
    rank = len(shape) + len(axes)
    places = {axis_in(node, axis, rank) for axis in axes}
    if len(places) < len(axes):
        raise UnfitGraph(f"{node}: an axis is named twice")
    sizes = iter(shape)
    return [1 if place in places else next(sizes) for place in range(rank)]


def reshaped(node: Node, shape: Sequence[int], target: Sequence[int]) -> list[int]:
    """The sizes that Reshape makes of `shape`: 0 copies one, -1 is what is left over."""
    copies = integer(node, "allowzero", 0) == 0
    sizes = [shape[place] if size == 0 and copies and place < len(shape) else size for place, size in enumerate(target)]
    known = math.prod(size for size in sizes if size != -1)
    if sizes.count(-1) == 1 and known > 0:
        sizes[sizes.index(-1)] = math.prod(shape) // known
    if min(sizes, default=1) < 0 or math.prod(sizes) != math.prod(shape):
        raise UnfitGraph(f"{node}: {tuple(shape)} cannot become {tuple(target)}")
    return sizes


def sliced(node: Node, inputs: Sequence[Tensor | None], shape: Sequence[int]) -> dict[int, range]:
    """The places that Slice takes of each axis that it cuts."""
    told = [None if each is None else [int(value) for value in each.flatten().tolist()] for each in inputs]
    starts, ends, axes, steps = [*told, None, None, None, None][:4]
    starts, ends = starts or [], ends or []
    axes = list(range(len(starts))) if axes is None else axes
    steps = [1] * len(starts) if steps is None else steps
    cut = {}
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        if step == 0:
            raise UnfitGraph(f"{node}: steps of 0")
        place = axis_in(node, axis, len(shape))
        cut[place] = range(*slice(start, end, step).indices(shape[place]))
    return cut


def broadcast(*shapes: Sequence[int]) -> list[int]:
    """The shape of what is computed of values of `shapes`, element by element."""
    return list(torch.broadcast_shapes(*shapes))  # type: ignore[no-untyped-call]


def pieces(node: Node, given: Tensor | None, size: int) -> list[int]:
    """The sizes into which Split cuts an axis of `size`."""
    sizes = listed(node, "split", given)
    if sizes is None:
        count = integer(node, "num_outputs", len(node.outputs))
        if count < 1:
            raise UnfitGraph(f"{node}: {count} outputs")
        each = -(-size // count)
        sizes = [each] * (size // each) + ([size % each] if size % each else []) if each else []
    if sum(sizes) != size or min(sizes, default=0) < 0 or len(sizes) < len(node.outputs):
        raise UnfitGraph(f"{node}: {size} cannot be split into {sizes[:8]}")
    return sizes
