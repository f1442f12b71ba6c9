"""An ONNX file's graph, read by a child; and the file's bytes again with other weights in them."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from worker.algorithms.graphs import Graph, Node, Use
from worker.stages import confinement, sandbox
from worker.stages.errors import ReadingFailed, Refused
from worker.stages.onnx_bytes import Place, with_numbers
from worker.stages.onnx_file import GRAPH, MOST_BYTES, TENSORS
from worker.stages.weights import read_tensors

MOST_JSON = 2**27  # bytes
CPU, WALL = 300, 600.0  # seconds


@dataclass(frozen=True)
class Read:
    """The graph of a file, its bytes, and where in them the numbers of its weights are."""

    graph: Graph
    content: bytes
    places: Mapping[str, Place]


def read_onnx(path: Path) -> Read:
    """The graph of an ONNX file. The worker parses nothing of it; a child does, and what that says is checked again.

    Raises `Refused` for what the file breaks, and what `sandbox.run` does.
    """
    size = path.stat().st_size
    if size > MOST_BYTES:
        raise Refused("onnx_too_large", f"the file has {size} bytes, at most {MOST_BYTES} are read")
    # The message, its serialisation for the checker, and its tensors, each as large as the file.
    limits = confinement.Limits(memory=6 * size + 2**29, cpu=CPU, wall=WALL, file=size + MOST_JSON)
    with tempfile.TemporaryDirectory(prefix="redeem-onnx-") as folder:
        out = Path(folder) / "onnx"
        sandbox.run("flatten_onnx", path, out, {}, limits)
        described = _described(out / GRAPH)
        numbered = read_tensors(out / TENSORS) if described.weights else {}
    try:
        tensors = {name: numbered[str(number)] for number, name in enumerate(described.weights)}
        tensors |= {name: constant.tensor() for name, constant in described.constants.items()}
    except (KeyError, RuntimeError, TypeError, ValueError) as error:
        raise ReadingFailed("the reader of the file gave an answer that fits no file") from error
    nodes = tuple(Node(**dict(node)) for node in described.nodes)
    graph = Graph(described.opset, nodes, tensors, described.input, described.shape, described.output)
    content = path.read_bytes()
    places = {
        name: (start, end)
        for name, (start, end) in described.places.items()
        if name in tensors and content[start:end] == _bytes(tensors[name])
    }
    return Read(graph, content, places)


def as_stored(uses: Sequence[Use], state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a network by their names in the file, with the file's axes; float32 on the CPU."""
    return {use.tensor: use.stored(state[use.key]).detach().to("cpu", torch.float32) for use in uses}


def rewritten(read: Read, weights: Mapping[str, Tensor]) -> bytes:
    """The file's bytes with these weights (see `as_stored`) in the places of its own; all others are the same."""
    return with_numbers(read.content, {name: _bytes(tensor) for name, tensor in weights.items()}, read.places)


def _bytes(tensor: Tensor) -> bytes:
    return tensor.numpy().astype("<f4").tobytes()


# What the child says is a claim: it has this form, or it is not taken.


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class _Node(_Strict):
    index: int
    op: str
    name: str
    inputs: tuple[str, ...]
    outputs: Annotated[tuple[str, ...], Field(min_length=1)]
    attributes: dict[str, int | float | str | list[int] | list[float] | list[str]]


class _Constant(_Strict):
    dtype: Literal["float32", "float64", "int64", "int32", "int8", "uint8", "bool"]
    shape: list[int]
    values: list[bool | int | float]

    def tensor(self) -> Tensor:
        return torch.tensor(self.values, dtype=getattr(torch, self.dtype)).reshape(self.shape)


class _Described(_Strict):
    opset: int
    nodes: list[_Node]
    input: str
    shape: tuple[int | None, int | None, int | None, int | None]
    output: str
    weights: list[str]
    constants: dict[str, _Constant]
    places: dict[str, tuple[int, int]]


def _described(path: Path) -> _Described:
    try:
        with path.open("rb") as file:
            content = file.read(MOST_JSON + 1)
        return _Described.model_validate_json(content[: MOST_JSON + 1])
    except (OSError, ValidationError) as error:
        raise ReadingFailed("the reader of the file gave no answer that can be understood") from error
