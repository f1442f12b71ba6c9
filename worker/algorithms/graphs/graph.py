"""A classifier as a graph of operators, as ONNX describes one: plain data, read by whoever knows the file format."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

Attribute = int | float | str | list[int] | list[float] | list[str]


@dataclass(frozen=True)
class Node:
    """An operator of ONNX's own set. `index` is its place in the file, "" an optional input that is left out."""

    index: int
    op: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Attribute]

    def __str__(self) -> str:
        return f"{self.op} {self.name[:120]!r}" if self.name else f"{self.op} (node {self.index})"


@dataclass(frozen=True)
class Graph:
    """Nodes in an order in which they can run. `tensors` are the file's initializers and the values of its `Constant`
    nodes; `shape` is that of the input (batch, channels, height, width), None where it is free."""

    opset: int
    nodes: tuple[Node, ...]
    tensors: Mapping[str, Tensor]
    input: str
    shape: tuple[int | None, int | None, int | None, int | None]
    output: str


@dataclass(frozen=True)
class Use:
    """A tensor of the file that training changes, by name, and its `key` in the network's state dict.

    The network holds it with its axes in the order `permutation` of the file's, where that is not None.
    """

    tensor: str
    key: str
    permutation: tuple[int, ...] | None

    def stored(self, value: Tensor) -> Tensor:
        """The network's value as the file holds it."""
        if self.permutation is None:
            return value
        return value.permute([self.permutation.index(axis) for axis in range(len(self.permutation))]).contiguous()
