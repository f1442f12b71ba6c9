"""Blocks of a network that comes as a flat graph, so that it can be looked at as one that was written in blocks.

Where all paths go through a single value, a block ends and the next one begins: a residual block lies between two such
values, so does a dense block, and on a plain chain every layer is alone. One thing the graph does not tell: a layer
after the last block of a resolution, before the map shrinks (the expansion at the head of a MobileNet's stage, the
convolution of a DenseNet's transition), belongs to what comes next. Nobody should take it for the end of its stage.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from worker.algorithms.graphs.graph import Node
from worker.algorithms.graphs.values import Held
from worker.algorithms.trace import has_weights


@dataclass(eq=False)
class Step:
    """One module's run: it reads the values `inputs` and makes `outputs`, the first of the given `shape`."""

    node: Node
    module: nn.Module
    inputs: list[str]
    outputs: list[str]
    held: tuple[Held, ...]
    shape: torch.Size

    @property
    def name(self) -> str:
        """Its place in the file and what it is called there, as far as a module may be called that."""
        called = re.sub(r"[^A-Za-z0-9]+", "_", self.node.name or self.node.op)[:64].strip("_")
        return f"{self.node.index}_{called}"


class Block(nn.Module):
    """Modules that read each other's outputs in any order: the value `source` goes in, `result` comes out."""

    def __init__(self, steps: Sequence[Step], source: str, result: str) -> None:
        super().__init__()
        self.source, self.result = source, result
        self.wiring = [(step.name, tuple(step.inputs), tuple(step.outputs)) for step in steps]
        for step in steps:
            self.add_module(step.name, step.module)

    def forward(self, x: Tensor) -> Tensor:
        values = {self.source: x}
        for name, inputs, outputs in self.wiring:
            result = self.get_submodule(name)(*[values[each] for each in inputs])
            values.update(zip(outputs, result if len(outputs) > 1 else [result], strict=False))
        return values[self.result]


def assembled(steps: Sequence[Step], source: str, result: str) -> nn.Sequential:
    """The steps, which run in this order, as a sequence of layers and blocks."""
    network = nn.Sequential()
    count = 0
    for segment in _joined(_segments(_needed(steps, result), source)):
        end = segment[-1].outputs[0]
        if len(segment) == 1 and segment[0].inputs == [source] and len(segment[0].outputs) == 1:
            network.add_module(segment[0].name, segment[0].module)
        else:
            count += 1
            network.add_module(f"block{count}", Block(segment, source, end))
        source = end
    return network


def _needed(steps: Sequence[Step], result: str) -> list[Step]:
    wanted = {result}
    kept = []
    for step in reversed(steps):
        if wanted.intersection(step.outputs):
            wanted.update(step.inputs)
            kept.append(step)
    return kept[::-1]


def _segments(steps: Sequence[Step], source: str) -> list[list[Step]]:
    """Cut after each step whose first output is the only value that later steps read."""
    last_read = {name: place for place, step in enumerate(steps) for name in step.inputs}
    segments: list[list[Step]] = [[]]
    alive = {source}
    for place, step in enumerate(steps):
        segments[-1].append(step)
        alive = {name for name in alive | set(step.outputs) if last_read.get(name, -1) > place}
        if alive == {step.outputs[0]}:
            segments.append([])
    return segments if segments[-1] else segments[:-1]


def _joined(segments: list[list[Step]]) -> list[list[Step]]:
    """Layers after the last block of a resolution go with what makes the map smaller. In a network with blocks, so does
    the last of several layers at a resolution that has none."""
    if not any(_weights(segment) > 1 for segment in segments):
        return segments
    joined: list[list[Step]] = []
    has_block, layers, place = False, 0, 0
    while place < len(segments):
        segment = segments[place]
        end = _end_of_level(segments, place) if _weights(segment) == 1 else None
        if end is not None and (has_block or (layers and not any(map(_weights, segments[place + 1 : end - 1])))):
            segment = [step for each in segments[place:end] for step in each]
            place = end - 1
        if joined and _is_smaller(segment, joined[-1]):
            has_block, layers = False, 0
        has_block |= _weights(segment) > 1
        layers += _weights(segment) > 0
        joined.append(segment)
        place += 1
    return joined


def _end_of_level(segments: list[list[Step]], start: int) -> int | None:
    """Behind the first segment from `start` on with a smaller map; None where there is none, or a block before it."""
    if len(segments[start][-1].shape) != 4:
        return None
    for place in range(start, len(segments)):
        if start > 0 and _is_smaller(segments[place], segments[start - 1]):
            return place + 1 if _pixels(segments[place]) > 1 else None
        if _weights(segments[place]) > 1 or len(segments[place][-1].shape) != 4:
            return None
    return None


def _is_smaller(segment: list[Step], other: list[Step]) -> bool:
    both_maps = len(segment[-1].shape) == len(other[-1].shape) == 4
    return both_maps and _pixels(segment) < _pixels(other)


def _pixels(segment: list[Step]) -> int:
    return math.prod(segment[-1].shape[2:])


def _weights(segment: list[Step]) -> int:
    return sum(has_weights(module) for step in segment for module in step.module.modules())
