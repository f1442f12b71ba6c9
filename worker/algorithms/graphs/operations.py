"""Operators without weights in a running network, as modules: each sees one value of the images, the rest is known."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worker.algorithms.graphs.arguments import (
    axes_of,
    axis_in,
    broadcast,
    integer,
    listed,
    number,
    pieces,
    reshaped,
    sliced,
    text,
    unsqueezed,
)
from worker.algorithms.graphs.constants import permutation_of, to_dtype
from worker.algorithms.graphs.errors import FixedBatch, UnfitGraph, UnsupportedOperator
from worker.algorithms.graphs.graph import Node
from worker.algorithms.graphs.values import Known, Operation, Running, at_every_batch, settled
from worker.algorithms.graphs.windows import LARGEST, window

Arguments = Sequence[Known | None]
"""The inputs after the first."""


def _argument(arguments: Arguments, place: int) -> Known | None:
    return arguments[place] if place < len(arguments) else None


def _told(node: Node, arguments: Arguments, place: int) -> Tensor | None:
    return settled(node, _argument(arguments, place))


def _needed(node: Node, arguments: Arguments) -> Known:
    found = _argument(arguments, 0)
    if found is None:
        raise UnfitGraph(f"{node} has no second input")
    return found


def _each(data: Running, what: Callable[[list[int]], list[int]]) -> list[list[int]]:
    return [what(list(tensor.shape)) for tensor in data.at]


# Activations


def _clip(node: Node, data: Running, arguments: Arguments) -> nn.Module:
    low, high = (
        None if each is None else float(each) for each in (_told(node, arguments, 0), _told(node, arguments, 1))
    )
    if (low, high) == (0.0, 6.0):
        return nn.ReLU6()
    return Operation(f"clip to {low} … {high}", lambda x: x.clamp(low, high))


def _hard_sigmoid(node: Node, data: Running, arguments: Arguments) -> nn.Module:
    slope, middle = number(node, "alpha", 0.2), number(node, "beta", 0.5)
    if abs(slope - 1 / 6) < 1e-6 and middle == 0.5:
        return nn.Hardsigmoid()
    return Operation(f"hard sigmoid {slope} {middle}", lambda x: (slope * x + middle).clamp(0, 1))


def _softmax(node: Node, data: Running, arguments: Arguments) -> nn.Module:
    rank = len(data.shape)
    if "axis" not in node.attributes:
        raise UnfitGraph(
            f"{node}: no axis"
        )  # its default is another in each version, and is written in where the file is read
    axis = axis_in(node, integer(node, "axis", -1), rank)
    if integer(node, "flattens", 0) and axis != rank - 1:
        raise UnsupportedOperator(f"{node}: before version 13 only a softmax over the last axis is supported")
    return nn.LogSoftmax(axis) if node.op == "LogSoftmax" else nn.Softmax(axis)


# Pooling


def _max_pool(node: Node, data: Running, arguments: Arguments) -> nn.Module:
    found, up = window(node, data.shape), bool(integer(node, "ceil_mode", 0))
    if found.symmetric is not None and all(2 * p <= k for p, k in zip(found.symmetric, found.kernel, strict=True)):
        return nn.MaxPool2d(found.kernel, found.stride, found.symmetric, found.dilation, ceil_mode=up)
    pool = nn.MaxPool2d(found.kernel, found.stride, 0, found.dilation, ceil_mode=up)
    return nn.Sequential(nn.ConstantPad2d(found.around, -torch.inf), pool)


def _average_pool(node: Node, data: Running, arguments: Arguments) -> nn.Module:
    found, up = window(node, data.shape), bool(integer(node, "ceil_mode", 0))
    counts = bool(integer(node, "count_include_pad", 0))
    if found.dilation != (1, 1):
        raise UnsupportedOperator(f"{node}: average pooling with dilations is not supported")
    if found.symmetric is not None and all(2 * p <= k for p, k in zip(found.symmetric, found.kernel, strict=True)):
        return nn.AvgPool2d(found.kernel, found.stride, found.symmetric, up, counts)
    if not counts or up:
        raise UnsupportedOperator(f"{node}: average pooling with this padding is not supported")
    return nn.Sequential(nn.ZeroPad2d(found.around), nn.AvgPool2d(found.kernel, found.stride))


def _global_pool(node: Node, data: Running, arguments: Arguments) -> nn.Module:
    if len(data.shape) != 4:
        raise UnsupportedOperator(f"{node}: an input of {len(data.shape)} axes")
    return nn.AdaptiveMaxPool2d(1) if node.op == "GlobalMaxPool" else nn.AdaptiveAvgPool2d(1)


def _reduce(node: Node, data: Running, arguments: Arguments) -> nn.Module:
    rank = len(data.shape)
    axes = axes_of(node, _told(node, arguments, 0), rank)
    if axes is None or set(axes) & set(data.growing):
        raise UnfitGraph(f"{node} mixes the images of a batch")
    keep, dims = bool(integer(node, "keepdims", 1)), tuple(axes)
    if node.op in ("ReduceMean", "GlobalAveragePool") and keep and rank == 4 and sorted(dims) == [2, 3]:
        return nn.AdaptiveAvgPool2d(1)
    functions: dict[str, Callable[[Tensor], Tensor]] = {
        "ReduceL2": lambda x: x.square().sum(dims, keepdim=keep).sqrt(),
        "ReduceMax": lambda x: x.amax(dims, keepdim=keep),
        "ReduceMean": lambda x: x.mean(dims, keepdim=keep),
        "ReduceMin": lambda x: x.amin(dims, keepdim=keep),
        "ReduceSum": lambda x: x.sum(dims, keepdim=keep),
    }
    return Operation(f"{node.op} over {dims}", functions[node.op])


# Shapes


def _to_sizes(node: Node, data: Running, shapes: list[list[int]]) -> nn.Module:
    sizes = at_every_batch(node, shapes)
    if len(sizes) == 2 and sizes[0] == -1 and [shape[0] for shape in shapes] == [len(each) for each in data.at]:
        return nn.Flatten()
    return Operation(f"reshape to {sizes}", lambda x: x.reshape(sizes))


def _reshape(node: Node, data: Running, arguments: Arguments) -> nn.Module:
    targets = [[int(size) for size in target.flatten().tolist()] for target in _needed(node, arguments).at]
    shapes = [list(tensor.shape) for tensor in data.at]
    return _to_sizes(node, data, [reshaped(node, shape, target) for shape, target in zip(shapes, targets, strict=True)])


def _flatten(node: Node, data: Running, arguments: Arguments) -> nn.Module:
    axis = integer(node, "axis", 1)
    if axis % max(len(data.shape), 1) != 1:
        raise UnsupportedOperator(f"{node}: only flattening from the second axis on is supported")
    return nn.Flatten()


def _squeeze(node: Node, data: Running, arguments: Arguments) -> nn.Module:
    axes = axes_of(node, _told(node, arguments, 0), len(data.shape))
    if axes is None or any(data.shape[axis] != 1 for axis in axes):
        raise UnfitGraph(f"{node}: only axes that are named and of size 1 can go")
    return Operation(f"squeeze {axes}", lambda x: x.squeeze(tuple(axes)))


def _unsqueeze(node: Node, data: Running, arguments: Arguments) -> nn.Module:
    axes = listed(node, "axes", _told(node, arguments, 0)) or []
    return _to_sizes(node, data, _each(data, lambda shape: unsqueezed(node, shape, axes)))


def _transpose(node: Node, data: Running, arguments: Arguments) -> nn.Module:
    order = permutation_of(node, len(data.shape))
    return Operation(f"permute {order}", lambda x: x.permute(order))


def _expand(node: Node, data: Running, arguments: Arguments) -> nn.Module:
    wanted = [
        broadcast(tensor.shape, [int(size) for size in target.flatten().tolist()])
        for tensor, target in zip(data.at, _needed(node, arguments).at, strict=True)
    ]
    if any(len(shape) != len(data.shape) for shape in wanted):
        raise UnsupportedOperator(f"{node}: an expansion to new axes is not supported")
    sizes = [-1 if size == data.shape[axis] else size for axis, size in enumerate(wanted[0])]
    if sizes[0] != -1 or any(shape[1:] != wanted[0][1:] for shape in wanted):
        raise FixedBatch(f"{node} repeats the images")
    return Operation(f"expand to {sizes}", lambda x: x.expand(sizes))


def _slice(node: Node, data: Running, arguments: Arguments) -> nn.Module:
    cuts = []
    for place, tensor in enumerate(data.at):
        known = [None if each is None else each.at[place] for each in arguments]
        cut = sliced(node, known, tensor.shape)
        cuts.append({axis: part for axis, part in cut.items() if part != range(tensor.shape[axis])})
    if any(cut != cuts[0] for cut in cuts):
        raise UnfitGraph(f"{node} takes part of a batch")
    if any(part.step < 0 for part in cuts[0].values()):
        raise UnsupportedOperator(f"{node} turns the order of an axis")
    parts = {axis: slice(part.start, part.stop, part.step) for axis, part in cuts[0].items()}
    index = tuple(parts.get(axis, slice(None)) for axis in range(len(data.shape)))
    return Operation(f"slice {cuts[0]}", lambda x: x[index])


def _gather(node: Node, data: Running, arguments: Arguments) -> nn.Module:
    index, axis = settled(node, _needed(node, arguments)), axis_in(node, integer(node, "axis", 0), len(data.shape))
    assert index is not None  # noqa: S101 - it is needed
    if index.ndim > 1 or index.numel() > LARGEST:
        raise UnsupportedOperator(f"{node}: only single places, or a list of them, can be taken")
    if axis in data.growing:
        raise UnfitGraph(f"{node} takes part of a batch")
    places = [axis_in(node, int(place), data.shape[axis]) for place in index.flatten().tolist()]
    if index.ndim == 0:
        return Operation(f"take {places[0]} of axis {axis}", lambda x: x.select(axis, places[0]))
    return Operation(f"take {places} of axis {axis}", lambda x: torch.stack([x.select(axis, p) for p in places], axis))


def _split(node: Node, data: Running, arguments: Arguments) -> nn.Module:
    axis = axis_in(node, integer(node, "axis", 0), len(data.shape))
    sizes = pieces(node, _told(node, arguments, 0), data.shape[axis])
    if axis in data.growing:
        raise UnfitGraph(f"{node} takes part of a batch")
    return Operation(f"split {sizes}", lambda x: x.split(sizes, axis))


def _pad(node: Node, data: Running, arguments: Arguments) -> nn.Module:
    rank, mode = len(data.shape), text(node, "mode", "constant")
    pads, axes = listed(node, "pads", _told(node, arguments, 0)) or [], axes_of(node, _told(node, arguments, 2), rank)
    axes = list(range(rank)) if axes is None else axes
    value = _told(node, arguments, 1)
    if len(pads) != 2 * len(axes) or not all(abs(pad) <= LARGEST for pad in pads):
        raise UnfitGraph(f"{node}: a padding of {pads[:16]}")
    around = [0] * (2 * rank)
    for place, axis in enumerate(axes):
        around[2 * (rank - 1 - axis)], around[2 * (rank - 1 - axis) + 1] = pads[place], pads[place + len(axes)]
    while len(around) > 2 and around[-2:] == [0, 0]:
        around = around[:-2]
    if len(around) == 2 * rank or (mode != "constant" and len(around) != 4):
        raise UnsupportedOperator(f"{node}: only height and width can be padded in this way")
    filling = 0.0 if value is None else float(value)
    names = {"constant": "constant", "reflect": "reflect", "edge": "replicate"}
    if mode not in names:
        raise UnsupportedOperator(f"{node}: the mode {mode[:40]!r} is not supported")
    if not any(around):
        return nn.Identity()
    if mode == "constant":
        return Operation(f"pad {around}", lambda x: F.pad(x, around, "constant", filling))
    return Operation(f"pad {around}", lambda x: F.pad(x, around, names[mode]))


def _lrn(node: Node, data: Running, arguments: Arguments) -> nn.Module:
    size = integer(node, "size", 0)
    if not 1 <= size <= LARGEST:
        raise UnfitGraph(f"{node}: a size of {size}")
    return nn.LocalResponseNorm(
        size, number(node, "alpha", 1e-4), number(node, "beta", 0.75), number(node, "bias", 1.0)
    )


def _cast(node: Node, data: Running, arguments: Arguments) -> nn.Module:
    if to_dtype(node) != torch.float32 or data.at[0].dtype != torch.float32:
        raise UnsupportedOperator(f"{node} of what the images become; only float32 is computed with")
    return nn.Identity()


OPERATIONS: dict[str, Callable[[Node, Running, Arguments], nn.Module]] = {
    "AveragePool": _average_pool,
    "Cast": _cast,
    "Clip": _clip,
    "Dropout": lambda node, data, arguments: nn.Identity(),
    "Elu": lambda node, data, arguments: nn.ELU(number(node, "alpha", 1.0)),
    "Expand": _expand,
    "Flatten": _flatten,
    "Gather": _gather,
    "Gelu": lambda node, data, arguments: nn.GELU(text(node, "approximate", "none")),
    "GlobalAveragePool": _global_pool,
    "GlobalMaxPool": _global_pool,
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": lambda node, data, arguments: nn.Hardswish(),
    "Identity": lambda node, data, arguments: nn.Identity(),
    "LRN": _lrn,
    "LeakyRelu": lambda node, data, arguments: nn.LeakyReLU(number(node, "alpha", 0.01)),
    "LogSoftmax": _softmax,
    "MaxPool": _max_pool,
    "Mish": lambda node, data, arguments: nn.Mish(),
    "Pad": _pad,
    "ReduceL2": _reduce,
    "ReduceMax": _reduce,
    "ReduceMean": _reduce,
    "ReduceMin": _reduce,
    "ReduceSum": _reduce,
    "Relu": lambda node, data, arguments: nn.ReLU(),
    "Reshape": _reshape,
    "Selu": lambda node, data, arguments: nn.SELU(),
    "Sigmoid": lambda node, data, arguments: nn.Sigmoid(),
    "Slice": _slice,
    "Softmax": _softmax,
    "Softplus": lambda node, data, arguments: nn.Softplus(),
    "Split": _split,
    "Squeeze": _squeeze,
    "Tanh": lambda node, data, arguments: nn.Tanh(),
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}
