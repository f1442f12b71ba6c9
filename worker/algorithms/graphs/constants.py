"""What of a graph is known before it runs: the arithmetic with shapes that exporters write out, node by node."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from worker.algorithms.graphs.arguments import (
    axes_of,
    axis_in,
    broadcast,
    integer,
    pieces,
    reshaped,
    sliced,
    unsqueezed,
)
from worker.algorithms.graphs.elementwise import ELEMENTWISE
from worker.algorithms.graphs.errors import GraphTooLarge, UnfitGraph, UnsupportedOperator
from worker.algorithms.graphs.graph import Node

MOST_VALUES = 2**22  # of a result; shapes have a handful, tables of positions some thousands

DTYPES = {
    1: torch.float32,
    2: torch.uint8,
    3: torch.int8,
    6: torch.int32,
    7: torch.int64,
    9: torch.bool,
    11: torch.float64,
}
"""By their numbers in ONNX."""

Inputs = Sequence[Tensor | None]


def fold(node: Node, inputs: Inputs) -> list[Tensor]:
    """The results of a node whose inputs are all known. Nothing is made before its size is known.

    Raises `UnsupportedOperator`, `UnfitGraph` and `GraphTooLarge`, and what torch raises for shapes that do not fit.
    """
    if node.op in FOLDED:
        result = FOLDED[node.op](node, inputs)
        return result if isinstance(result, list) else [result]
    if node.op not in ELEMENTWISE:
        raise UnsupportedOperator(f"{node} on constants cannot be worked out")
    present = _present(inputs)
    _bounded(node, math.prod(broadcast(*[each.shape for each in present])))
    return [ELEMENTWISE[node.op](*present)]


def to_dtype(node: Node) -> torch.dtype:
    number = integer(node, "to", 1)
    if number not in DTYPES:
        raise UnsupportedOperator(f"{node} to the type {number} of ONNX is not supported")
    return DTYPES[number]


def _present(inputs: Inputs) -> list[Tensor]:
    return [each for each in inputs if each is not None]


def _bounded(node: Node, size: int) -> None:
    if size > MOST_VALUES:
        raise GraphTooLarge(f"{node} makes a constant of {size} values, at most {MOST_VALUES} are allowed")


def _first(node: Node, inputs: Inputs) -> Tensor:
    if not inputs or inputs[0] is None:
        raise UnfitGraph(f"{node} has no input")
    return inputs[0]


def _second(node: Node, inputs: Inputs) -> Tensor:
    if len(inputs) < 2 or inputs[1] is None:
        raise UnfitGraph(f"{node} has no second input")
    return inputs[1]


def _optional(inputs: Inputs, position: int) -> Tensor | None:
    return inputs[position] if position < len(inputs) else None


def _sizes(node: Node, told: Tensor) -> list[int]:
    sizes = [int(value) for value in told.flatten().tolist()]
    if min(sizes, default=0) < 0:
        raise UnfitGraph(f"{node}: a size below zero")
    _bounded(node, math.prod(sizes))
    return sizes


def _gather(node: Node, inputs: Inputs) -> Tensor:
    data, index = _first(node, inputs), _second(node, inputs)
    axis = axis_in(node, integer(node, "axis", 0), data.ndim)
    _bounded(node, index.numel() * math.prod([*data.shape[:axis], *data.shape[axis + 1 :]]))
    index = torch.where(index < 0, index + data.shape[axis], index).long()
    found = data.index_select(axis, index.flatten())
    return found.reshape([*data.shape[:axis], *index.shape, *data.shape[axis + 1 :]])


def _slice(node: Node, inputs: Inputs) -> Tensor:
    data = _first(node, inputs)
    for axis, part in sliced(node, inputs[1:], data.shape).items():
        data = data.index_select(axis, torch.tensor(part, dtype=torch.int64))
    return data


def _concat(node: Node, inputs: Inputs) -> Tensor:
    present = _present(inputs)
    _bounded(node, sum(each.numel() for each in present))
    return torch.cat(present, integer(node, "axis", 0))


def _squeeze(node: Node, inputs: Inputs) -> Tensor:
    data = _first(node, inputs)
    axes = axes_of(node, _optional(inputs, 1), data.ndim)
    return data.squeeze() if axes is None else data.squeeze(tuple(axes))


def _unsqueeze(node: Node, inputs: Inputs) -> Tensor:
    data, axes = _first(node, inputs), _optional(inputs, 1)
    named = axes.flatten().tolist() if axes is not None else node.attributes.get("axes", [])
    if not isinstance(named, list):
        raise UnfitGraph(f"{node}: axes that are no list")
    return data.reshape(unsqueezed(node, data.shape, [int(axis) for axis in named]))


def _reshape(node: Node, inputs: Inputs) -> Tensor:
    data = _first(node, inputs)
    return data.reshape(reshaped(node, data.shape, [int(size) for size in _second(node, inputs).flatten().tolist()]))


def _transpose(node: Node, inputs: Inputs) -> Tensor:
    data = _first(node, inputs)
    return data.permute(permutation_of(node, data.ndim))


def permutation_of(node: Node, rank: int) -> list[int]:
    found = node.attributes.get("perm", list(range(rank))[::-1])
    if not isinstance(found, list) or sorted(found) != list(range(rank)):
        raise UnfitGraph(f"{node}: {found} is no order of {rank} axes")
    return [int(axis) for axis in found]


def _expand(node: Node, inputs: Inputs) -> Tensor:
    data = _first(node, inputs)
    shape = broadcast(data.shape, _sizes(node, _second(node, inputs)))
    _bounded(node, math.prod(shape))
    return data.expand(shape)


def _constant_of_shape(node: Node, inputs: Inputs) -> Tensor:
    value = _optional(inputs, 1)  # an attribute in the file
    filling = torch.zeros(1) if value is None else value
    return (
        filling.reshape(1)
        .expand(math.prod(_sizes(node, _first(node, inputs))))
        .reshape(_sizes(node, _first(node, inputs)))
    )


def _range(node: Node, inputs: Inputs) -> Tensor:
    start, limit, delta = (each.item() for each in _present(inputs))
    if not delta or not all(math.isfinite(each) for each in (start, limit, delta)):
        raise UnfitGraph(f"{node}: from {start} to {limit} in steps of {delta}")
    count = max(0, math.ceil((limit - start) / delta))
    _bounded(node, count)
    return torch.arange(count, dtype=_first(node, inputs).dtype) * delta + start


def _split(node: Node, inputs: Inputs) -> list[Tensor]:
    data = _first(node, inputs)
    axis = axis_in(node, integer(node, "axis", 0), data.ndim)
    return list(torch.split(data, pieces(node, _optional(inputs, 1), data.shape[axis]), axis))


def _reduce(function: Callable[..., Tensor]) -> Callable[[Node, Inputs], Tensor]:
    def reduce(node: Node, inputs: Inputs) -> Tensor:
        data = _first(node, inputs)
        axes = axes_of(node, _optional(inputs, 1), data.ndim)
        if axes is None and integer(node, "noop_with_empty_axes", 0):
            return data
        for axis in sorted(range(data.ndim) if axes is None else axes):
            data = function(data, axis, keepdim=True)
        return data if integer(node, "keepdims", 1) else data.squeeze(tuple(axes or range(data.ndim)))

    return reduce


FOLDED: dict[str, Callable[[Node, Inputs], Tensor | list[Tensor]]] = {
    "Cast": lambda node, inputs: _first(node, inputs).to(to_dtype(node)),
    "Concat": _concat,
    "ConstantOfShape": _constant_of_shape,
    "Expand": _expand,
    "Gather": _gather,
    "Identity": _first,
    "Range": _range,
    "ReduceMax": _reduce(torch.amax),
    "ReduceMin": _reduce(torch.amin),
    "ReduceProd": _reduce(torch.prod),
    "ReduceSum": _reduce(torch.sum),
    "Reshape": _reshape,
    "Slice": _slice,
    "Split": _split,
    "Squeeze": _squeeze,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}
