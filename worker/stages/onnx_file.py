"""An ONNX file, checked, as plain data: its nodes and small constants as JSON, its weights as a file of tensors.

This runs in a child process (`sandbox.py`). Nothing here computes with the graph, follows a path or imports torch. The
file is parsed from bytes: with no folder to look in there is no external data. What goes on is the plain data.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, numpy_helper
from safetensors.numpy import save

from worker.stages.errors import Refused
from worker.stages.onnx_bytes import Place, places

GRAPH, TENSORS = "graph.json", "tensors.safetensors"
MOST_BYTES = 2**30
MOST_NODES = 20_000
MOST_ITEMS = 2**18  # of an attribute, or of a constant that is no weight
MOST_AXES = 8
OPSETS = range(11, 24)
IR_VERSIONS = range(4, 14)
NAME = re.compile(r"[ -~]{1,512}")
DOMAINS = ("", "ai.onnx")
CONTROL_FLOW = {"If", "Loop", "Scan", "SequenceMap"}
TYPES = (
    TensorProto.FLOAT,
    TensorProto.DOUBLE,
    TensorProto.INT64,
    TensorProto.INT32,
    TensorProto.INT8,
    TensorProto.UINT8,
    TensorProto.BOOL,
)
SIMPLE: dict[int, Callable[[AttributeProto], Any]] = {
    AttributeProto.FLOAT: lambda attribute: attribute.f,
    AttributeProto.INT: lambda attribute: attribute.i,
    AttributeProto.STRING: lambda attribute: attribute.s.decode("utf-8", "replace"),
    AttributeProto.FLOATS: lambda attribute: list(attribute.floats),
    AttributeProto.INTS: lambda attribute: list(attribute.ints),
    AttributeProto.STRINGS: lambda attribute: [each.decode("utf-8", "replace") for each in attribute.strings],
}

Tensors = dict[str, np.ndarray[Any, Any]]


def flatten_onnx(source: Path, out: Path) -> dict[str, Any]:
    """Writes `GRAPH` and `TENSORS`. Raises `Refused`, by code."""
    if source.stat().st_size > MOST_BYTES:
        raise Refused("onnx_too_large", f"the file has more than {MOST_BYTES} bytes")
    content = source.read_bytes()
    model = parsed(content)
    graph, tensors = model.graph, dict(_initializers(model.graph))
    nodes = [_flat(node, index, _opset(model), tensors) for index, node in enumerate(graph.node)]
    weights = [name for name, tensor in tensors.items() if tensor.dtype == np.float32 and tensor.size]
    name, shape = _input(graph)
    described = {
        "opset": _opset(model),
        "nodes": [node for node in nodes if node is not None],
        "input": name,
        "shape": shape,
        "output": graph.output[0].name,
        "weights": weights,
        "constants": {name: _listed(tensor) for name, tensor in tensors.items() if name not in set(weights)},
        "places": _places(content, weights),
    }
    (out / GRAPH).write_text(json.dumps(described))
    numbered = {str(number): np.array(tensors[name], order="C") for number, name in enumerate(weights)}
    (out / TENSORS).write_bytes(save(numbered))  # the library's own writing renames, which no child may
    return {}


def _listed(tensor: np.ndarray[Any, Any]) -> dict[str, Any]:
    if tensor.size > MOST_ITEMS:
        raise Refused("onnx_too_large", f"a table of {tensor.size} numbers that are not float32; at most {MOST_ITEMS}")
    return {"dtype": str(tensor.dtype), "shape": list(tensor.shape), "values": tensor.flatten().tolist()}


def _places(content: bytes, weights: list[str]) -> dict[str, Place]:
    try:
        found = places(content)
    except ValueError as error:
        raise Refused("onnx_malformed", f"the file is no well-formed message: {error}") from error
    return {name: found[name] for name in weights if name in found}


def parsed(content: bytes) -> ModelProto:
    """The message, checked as far as it can be without looking at what the operators mean. Raises `Refused`."""
    model = ModelProto()
    try:
        model.ParseFromString(content)
    except DecodeError as error:
        raise Refused("onnx_malformed", f"not an ONNX file: {error}") from error
    _check_model(model)
    _check_names(model.graph)
    _check_ends(model.graph)
    try:
        onnx.checker.check_model(model)
    except (onnx.checker.ValidationError, ValueError, RuntimeError) as error:
        raise Refused("onnx_invalid", f"the file is no valid ONNX model: {str(error)[:500]}") from error
    return model


def _opset(model: ModelProto) -> int:
    return next((opset.version for opset in model.opset_import if opset.domain in DOMAINS), 0)


def _check_model(model: ModelProto) -> None:
    graph = model.graph
    if not graph.node or not model.opset_import:
        raise Refused("onnx_malformed", "not an ONNX file: there is no graph in it")
    if model.ir_version not in IR_VERSIONS or _opset(model) not in OPSETS:
        raise Refused(
            "onnx_version",
            f"the file has the format {model.ir_version} and the opset {_opset(model)}; "
            f"{IR_VERSIONS[0]} to {IR_VERSIONS[-1]} and {OPSETS[0]} to {OPSETS[-1]} are read",
        )
    if model.functions:
        raise Refused("onnx_functions", f"the file defines {len(model.functions)} functions of its own")
    if model.training_info:
        raise Refused("onnx_training_info", "the file has training information")
    if max(len(graph.node), len(graph.initializer)) > MOST_NODES:
        raise Refused(
            "onnx_too_large",
            f"{len(graph.node)} nodes and {len(graph.initializer)} tensors; at most {MOST_NODES} of each are read",
        )
    if graph.sparse_initializer:
        raise Refused("onnx_sparse_tensor", "the file has sparse tensors")
    for node in graph.node:
        _check_node(node)
    for tensor in _tensors(graph):
        _check_tensor(tensor)


def _check_node(node: NodeProto) -> None:
    shown = f"the operator {node.op_type[:80]} of node {node.name[:80]!r}"
    if node.domain not in DOMAINS:
        raise Refused("onnx_custom_domain", f"{shown} is of the domain {node.domain[:80]!r}, not ONNX's own")
    for attribute in node.attribute:
        if node.op_type in CONTROL_FLOW or attribute.type in (AttributeProto.GRAPH, AttributeProto.GRAPHS):
            raise Refused("onnx_control_flow", f"{shown} runs a graph of its own; such networks cannot be purified")
        if attribute.ref_attr_name:
            raise Refused("onnx_functions", f"{shown} refers to an attribute of a function")
        size = max(len(attribute.floats), len(attribute.ints), len(attribute.strings), len(attribute.s))
        if size > MOST_ITEMS:
            raise Refused("onnx_too_large", f"{shown} has an attribute of {size} values")


def _tensors(graph: GraphProto) -> Iterator[TensorProto]:
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors


def _check_tensor(tensor: TensorProto) -> None:
    shown = f"the tensor {tensor.name[:80]!r}"
    if tensor.data_location == TensorProto.EXTERNAL or tensor.external_data:
        raise Refused("onnx_external_data", f"{shown} is in another file")
    if tensor.data_type not in TYPES:
        kind = TensorProto.DataType.Name(tensor.data_type) if tensor.data_type in range(25) else tensor.data_type
        raise Refused("onnx_unsupported_type", f"{shown} is of the type {kind}")
    if len(tensor.dims) > MOST_AXES or any(size < 0 for size in tensor.dims):
        raise Refused("onnx_malformed", f"{shown} has the shape {list(tensor.dims)[:16]}")
    count, stored = math.prod(tensor.dims), _stored(tensor)
    if count != stored:
        raise Refused("onnx_malformed", f"{shown} should have {count} values and has {stored}")


def _stored(tensor: TensorProto) -> int:
    """How many values there are, before anything of the size that is claimed is made."""
    if tensor.HasField("raw_data"):
        size = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)).itemsize
        return len(tensor.raw_data) // size if len(tensor.raw_data) % size == 0 else -1
    return max(len(tensor.float_data), len(tensor.double_data), len(tensor.int32_data), len(tensor.int64_data))


def _check_names(graph: GraphProto) -> None:
    """Every name is made once, and before it is read."""
    names = [tensor.name for tensor in graph.initializer]
    if len(set(names)) < len(names) or len({value.name for value in graph.input}) < len(graph.input):
        raise Refused("onnx_duplicate_name", "two tensors or inputs have the same name")
    if odd := [name for name in names if not NAME.fullmatch(name)]:
        raise Refused("onnx_name", f"a tensor is called {ascii(odd[0])[:80]}")
    known = {*names, *(value.name for value in graph.input)}
    made = {name for node in graph.node for name in node.output if name}
    for node in graph.node:
        for name in node.input:
            if name and name not in known:
                code = "onnx_not_sorted" if name in made else "onnx_undefined_input"
                raise Refused(code, f"node {node.name[:80]!r} reads {name[:80]!r}, which is not there yet")
        for name in node.output:
            if name and name in known:
                raise Refused("onnx_duplicate_name", f"{name[:80]!r} is made twice")
            known.add(name)
    if missing := [value.name for value in graph.output if value.name not in known]:
        raise Refused("onnx_undefined_input", f"the output {missing[0][:80]!r} is made by no node")


def _check_ends(graph: GraphProto) -> None:
    tensors = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in tensors]
    if len(inputs) != 1 or len(graph.output) != 1:
        raise Refused("onnx_inputs", f"the graph has {len(inputs)} inputs and {len(graph.output)} outputs")
    kind = inputs[0].type.tensor_type
    if kind.elem_type != TensorProto.FLOAT or len(kind.shape.dim) != 4:
        raise Refused("onnx_inputs", f"the input has {len(kind.shape.dim)} axes, or is not float32")


def _input(graph: GraphProto) -> tuple[str, list[int | None]]:
    tensors = {tensor.name for tensor in graph.initializer}
    value = next(value for value in graph.input if value.name not in tensors)
    sizes = [axis.dim_value if axis.HasField("dim_value") else None for axis in value.type.tensor_type.shape.dim]
    if any(size is not None and size < 1 for size in sizes):
        raise Refused("onnx_inputs", f"the input has the shape {sizes}")
    return value.name, sizes


def _initializers(graph: GraphProto) -> Iterator[tuple[str, np.ndarray[Any, Any]]]:
    for tensor in graph.initializer:
        yield tensor.name, _array(tensor)


def _array(tensor: TensorProto) -> np.ndarray[Any, Any]:
    array = numpy_helper.to_array(tensor)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise Refused("onnx_not_finite", f"the tensor {tensor.name[:80]!r} holds numbers that are not finite")
    return array


def _flat(node: NodeProto, index: int, opset: int, tensors: Tensors) -> dict[str, Any] | None:
    """The node as JSON; None for a constant, which goes to `tensors` instead."""
    attributes = {attribute.name: attribute for attribute in node.attribute}
    if node.op_type == "Constant":
        tensors[node.output[0]] = _constant(node)
        return None
    inputs = list(node.input)
    if node.op_type == "ConstantOfShape" and "value" in attributes:
        inputs.append(f"{node.output[0]}: filling of node {index}")
        tensors[inputs[-1]] = _array(attributes.pop("value").t)
    plain = {}
    for name, attribute in attributes.items():
        if attribute.type not in SIMPLE:
            raise Refused("onnx_unsupported_type", f"the attribute {name[:80]!r} of {node.op_type[:80]}")
        plain[name] = SIMPLE[attribute.type](attribute)
    if node.op_type in ("Softmax", "LogSoftmax"):
        plain = {"axis": 1, "flattens": 1, **plain} if opset < 13 else {"axis": -1, **plain}
    return {
        "index": index,
        "op": node.op_type,
        "name": node.name,
        "inputs": inputs,
        "outputs": list(node.output),
        "attributes": plain,
    }


def _constant(node: NodeProto) -> np.ndarray[Any, Any]:
    attribute = node.attribute[0]
    if attribute.type == AttributeProto.TENSOR:
        return _array(attribute.t)
    if attribute.type not in (AttributeProto.FLOAT, AttributeProto.FLOATS, AttributeProto.INT, AttributeProto.INTS):
        raise Refused("onnx_unsupported_type", f"the constant {node.name[:80]!r} is neither numbers nor a tensor")
    kind = np.int64 if attribute.type in (AttributeProto.INT, AttributeProto.INTS) else np.float32
    return np.array(SIMPLE[attribute.type](attribute), dtype=kind)
