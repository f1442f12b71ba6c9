"""ONNX files that are refused, each for its own reason, before anything of them is computed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import ModelProto, TensorProto, helper, numpy_helper

from tests.worker.onnx_files import classifier
from worker.stages.errors import Refused
from worker.stages.onnx_file import IR_VERSIONS, OPSETS, flatten_onnx
from worker.stages.onnx_graph import read_onnx

Spoil = Callable[[ModelProto], object]


def relu() -> ModelProto:
    return classifier(helper.make_node("Relu", ["images"], ["features"], name="activation"))


def as_external(model: ModelProto) -> None:
    weight = model.graph.initializer[0]
    weight.data_location = TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="/etc/passwd")


def with_branch(model: ModelProto) -> None:
    branch = helper.make_graph([helper.make_node("Relu", ["images"], ["out"])], "branch", [], [])
    model.graph.node.insert(0, helper.make_node("If", ["yes"], ["x"], then_branch=branch, else_branch=branch))


def with_function(model: ModelProto) -> None:
    model.functions.append(
        helper.make_function("here", "F", ["x"], ["y"], [helper.make_node("Relu", ["x"], ["y"])], [])
    )


def with_infinity(model: ModelProto) -> None:
    weight = numpy_helper.to_array(model.graph.initializer[0]).copy()
    weight[0, 0] = np.inf
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(weight, "weight"))


def with_cycle(model: ModelProto) -> None:
    model.graph.node[0].input[0] = "flat"


def with_claim(model: ModelProto) -> None:
    model.graph.initializer[0].dims[:] = [2**40, 2**20]


def with_half(model: ModelProto) -> None:
    half = numpy_helper.to_array(model.graph.initializer[0]).astype(np.float16)
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(half, "weight"))


def with_sparse(model: ModelProto) -> None:
    model.graph.sparse_initializer.add(dims=[4])


def with_many_numbers(model: ModelProto) -> None:
    model.graph.node[0].attribute.append(helper.make_attribute("sizes", [1] * (2**18 + 1)))


def with_reference(model: ModelProto) -> None:
    model.graph.node[0].attribute.add(name="alpha", ref_attr_name="beta", type=1)


def renamed(model: ModelProto) -> None:
    model.graph.initializer[0].name = model.graph.node[2].input[1] = "weight\x00\u202e"


SPOILT: dict[str, list[tuple[str, Spoil]]] = {
    "onnx_malformed": [
        ("no graph", lambda model: model.ClearField("graph")),
        ("a size that is claimed", with_claim),
        ("sizes below zero", lambda model: model.graph.initializer[0].dims.__setitem__(0, -4)),
    ],
    "onnx_version": [
        ("opset 10", lambda model: setattr(model.opset_import[0], "version", 10)),
        ("opset 99", lambda model: setattr(model.opset_import[0], "version", 99)),
        ("format 99", lambda model: setattr(model, "ir_version", 99)),
        ("no opset of ONNX", lambda model: setattr(model.opset_import[0], "domain", "com.example")),
    ],
    "onnx_external_data": [("a path", as_external)],
    "onnx_custom_domain": [("a node", lambda model: setattr(model.graph.node[0], "domain", "com.microsoft"))],
    "onnx_functions": [("a function", with_function), ("a reference", with_reference)],
    "onnx_control_flow": [("If", with_branch)],
    "onnx_training_info": [("training", lambda model: model.training_info.add())],
    "onnx_sparse_tensor": [("sparse", with_sparse)],
    "onnx_unsupported_type": [("half precision", with_half)],
    "onnx_not_finite": [("an infinity", with_infinity)],
    "onnx_name": [("control characters", renamed)],
    "onnx_duplicate_name": [
        ("two tensors", lambda model: model.graph.initializer.append(model.graph.initializer[0])),
        ("two nodes", lambda model: model.graph.node.append(model.graph.node[0])),
    ],
    "onnx_undefined_input": [
        ("a node", lambda model: model.graph.node[0].input.__setitem__(0, "nothing")),
        ("an output", lambda model: setattr(model.graph.output[0], "name", "nothing")),
    ],
    "onnx_not_sorted": [("a cycle", with_cycle)],
    "onnx_inputs": [
        ("two inputs", lambda model: model.graph.input.append(helper.make_tensor_value_info("more", 1, [1]))),
        ("whole numbers", lambda model: setattr(model.graph.input[0].type.tensor_type, "elem_type", 7)),
        ("three axes", lambda model: model.graph.input[0].type.tensor_type.shape.dim.pop()),
        ("a batch of none", lambda model: setattr(model.graph.input[0].type.tensor_type.shape.dim[0], "dim_value", 0)),
    ],
    "onnx_invalid": [
        ("an unknown operator", lambda model: setattr(model.graph.node[0], "op_type", "Purify")),
        ("an unknown attribute", lambda model: model.graph.node[0].attribute.append(helper.make_attribute("x", 1))),
    ],
    "onnx_too_large": [("an attribute", with_many_numbers)],
}


@pytest.mark.parametrize(
    ("code", "spoil"),
    [pytest.param(code, spoil, id=f"{code}: {name}") for code, spoilt in SPOILT.items() for name, spoil in spoilt],
)
def test_a_hostile_file_is_refused_by_its_code(tmp_path: Path, code: str, spoil: Spoil) -> None:
    model = relu()
    spoil(model)
    (tmp_path / "file").write_bytes(model.SerializeToString())
    with pytest.raises(Refused) as refused:
        flatten_onnx(tmp_path / "file", tmp_path)
    assert (refused.value.code, bool(refused.value.hint)) == (code, True), refused.value
    assert not (tmp_path / "graph.json").exists()


@pytest.mark.parametrize("content", [b"", b"\x00" * 64, b"PK\x03\x04" + b"\x00" * 64, b"\x08\x07:\xff\xff\xff\xff\x0f"])
def test_what_is_no_onnx_at_all_is_refused_by_the_child(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(Refused) as refused:
        read_onnx(tmp_path / "file")
    assert refused.value.code == "onnx_malformed"


def test_the_graph_comes_whole_through_the_child(tmp_path: Path) -> None:
    model = classifier(
        helper.make_node("Constant", [], ["low"], value_float=0.0),
        helper.make_node("Constant", [], ["empty"], value=numpy_helper.from_array(np.zeros(0, np.int64))),
        helper.make_node("Clip", ["images", "low"], ["features"], name="activation"),
    )
    (tmp_path / "file").write_bytes(model.SerializeToString())
    read = read_onnx(tmp_path / "file")
    assert (read.graph.input, read.graph.shape, read.graph.output) == ("images", (None, 3, 8, 8), "logits")
    assert [(node.index, node.op, node.inputs) for node in read.graph.nodes] == [
        (2, "Clip", ("images", "low")),
        (3, "Flatten", ("features",)),
        (4, "Gemm", ("flat", "weight")),
    ]
    assert read.graph.nodes[2].attributes == {"transB": 1}
    weight = torch.from_numpy(numpy_helper.to_array(model.graph.initializer[0]).copy())
    assert torch.equal(read.graph.tensors["weight"], weight)
    assert (read.graph.tensors["low"].shape, read.graph.tensors["empty"].shape) == (torch.Size([]), torch.Size([0]))
    start, end = read.places["weight"]
    assert read.content[start:end] == weight.numpy().tobytes()


def test_numbers_may_be_stored_in_either_way(tmp_path: Path) -> None:
    model = relu()
    numbers = numpy_helper.to_array(model.graph.initializer[0])
    model.graph.initializer[0].CopyFrom(
        helper.make_tensor("weight", TensorProto.FLOAT, numbers.shape, numbers.flatten())
    )
    assert not model.graph.initializer[0].HasField("raw_data")
    (tmp_path / "file").write_bytes(model.SerializeToString())
    read = read_onnx(tmp_path / "file")
    start, end = read.places["weight"]
    assert read.content[start:end] == numbers.tobytes()


def test_the_range_of_versions_is_one_that_the_library_knows() -> None:
    assert OPSETS[-1] <= onnx.defs.onnx_opset_version()
    assert IR_VERSIONS[-1] <= onnx.IR_VERSION
