"""Numbers are put into a file where they were, and nothing else of it is touched."""

from __future__ import annotations

import onnx
import pytest
import torch
from onnx import helper, numpy_helper

from tests.worker.onnx_files import classifier
from worker.stages.onnx_bytes import places, with_numbers


def content() -> bytes:
    scale = numpy_helper.from_array(torch.rand(3, 1, 1).numpy())
    constant = helper.make_node("Constant", [], ["scale"], value=scale)
    return classifier(constant, helper.make_node("Mul", ["images", "scale"], ["features"])).SerializeToString()


def test_initializers_and_constants_are_found() -> None:
    file = content()
    model = onnx.load_from_string(file)
    numbers = {"weight": model.graph.initializer[0], "scale": model.graph.node[0].attribute[0].t}
    found = places(file)
    assert {name: file[slice(*found[name])] for name in numbers} == {
        name: tensor.raw_data for name, tensor in numbers.items()
    }


def test_only_the_numbers_change() -> None:
    file = content()
    start, end = places(file)["scale"]
    new = torch.tensor([1.0, 2.0, 3.0]).numpy().tobytes()
    changed = with_numbers(file, {"scale": new}, places(file))
    assert (changed[:start], changed[start:end], changed[end:]) == (file[:start], new, file[end:])


def test_numbers_of_another_size_are_not_taken() -> None:
    with pytest.raises(ValueError, match="12 bytes in the file, and 8 were given"):
        with_numbers(content(), {"scale": bytes(8)}, places(content()))


@pytest.mark.parametrize(
    "file", [b"\xff" * 12, b"\x3a\x05\x0a", b"\x0b", b"\x09\x00"], ids=["endless", "too long", "a group", "cut off"]
)
def test_what_is_no_message_is_said_to_be_none(file: bytes) -> None:
    with pytest.raises(ValueError, match=r"field|number"):
        places(file)
