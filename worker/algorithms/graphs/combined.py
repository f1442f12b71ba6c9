"""Operators on several values, some of which may be constants: residual sums, gates, scales, class tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from worker.algorithms.graphs.arguments import integer
from worker.algorithms.graphs.elementwise import ELEMENTWISE
from worker.algorithms.graphs.errors import UnfitGraph, UnsupportedOperator
from worker.algorithms.graphs.graph import Node
from worker.algorithms.graphs.values import Held, Known, Layer, Running, Value, settled

LEARNT = ("Add", "Concat", "MatMul", "Mul")
"""Whose constants are weights: biases, positions, tokens, scales. Nobody learns what is subtracted or divided by."""


class Combined(nn.Module):
    """`function` of the inputs and of constants, which are its `constants` by position; the others are inputs."""

    def __init__(self, name: str, function: Callable[..., Tensor], positions: int) -> None:
        super().__init__()
        self.name, self.function, self.positions = name, function, positions

    def forward(self, *inputs: Tensor) -> Tensor:
        running = iter(inputs)
        constants = [getattr(self, f"constant{position}", None) for position in range(self.positions)]
        return self.function(*[next(running) if each is None else each for each in constants])

    def extra_repr(self) -> str:
        return self.name


def combined(node: Node, inputs: Sequence[Value | None], *, trained: bool) -> Layer:
    """`trained`: whether constants of the file are weights. Before the first layer they are the normalisation."""
    present = {place: value for place, value in enumerate(inputs) if value is not None}
    module = Combined(node.op, _function(node, list(present.values())), len(present))
    held = []
    for position, (place, value) in enumerate(present.items()):
        if isinstance(value, Running):
            continue
        tensor = settled(node, _one_of_a_batch(node, value))
        assert tensor is not None  # noqa: S101 - it is there
        is_weight = trained and node.op in LEARNT and value.tensor is not None and tensor.numel() > 1
        if is_weight and tensor.dtype == torch.float32 and value.tensor is not None:
            tensor = tensor.clone(memory_format=torch.contiguous_format)
            module.register_parameter(f"constant{position}", nn.Parameter(tensor))
            held.append(Held(f"constant{position}", value.tensor, place, value.permutation))
        else:
            module.register_buffer(f"constant{position}", tensor, persistent=False)
    reads = tuple(place for place, value in present.items() if isinstance(value, Running))
    return Layer(module, reads, tuple(held))


def _function(node: Node, values: list[Value]) -> Callable[..., Tensor]:
    if node.op == "MatMul":
        return torch.matmul
    if node.op == "Concat":
        axis = integer(node, "axis", 1) % max(values[0].at[0].ndim, 1)
        if any(axis in value.growing for value in values if isinstance(value, Running)):
            raise UnfitGraph(f"{node} makes more images than there are")
        return lambda *parts: _joined(parts, axis)
    return ELEMENTWISE[node.op]


def _joined(parts: Sequence[Tensor], axis: int) -> Tensor:
    """Side by side; what there is one of, such as a class token, goes to every image."""
    count = max(len(part) for part in parts)
    alone = [axis != 0 and len(part) == 1 for part in parts]
    return torch.cat(
        [part.expand(count, *part.shape[1:]) if one else part for part, one in zip(parts, alone, strict=True)], axis
    )


def _one_of_a_batch(node: Node, value: Known) -> Known:
    """A constant that was repeated for each image, once."""
    sizes = {len(each) for each in value.at if each.ndim}
    if len(value.at) > 1 and len(sizes) == len(value.at) and node.op in ELEMENTWISE | {"Concat": None}:
        first = value.at[0][:1]
        if any(not torch.equal(each, first.expand_as(each)) for each in value.at):
            raise UnsupportedOperator(f"{node} has another constant for each image")
        return Known((first,) * len(value.at), value.tensor, value.permutation)
    return value
