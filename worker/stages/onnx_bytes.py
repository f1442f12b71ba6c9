"""Where in an ONNX file the numbers of its tensors are, so that others can be put there and nothing else is touched.

A file is a protobuf message, which is read here as far as it takes to find them: each field is its number and kind, and
then either a number or a length and as many bytes. An array of float32 lies there as it does in memory, be it
`raw_data` or the packed `float_data`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # kinds of fields

# Numbers of fields in onnx.proto.
MODEL_GRAPH = 7
GRAPH_NODE, GRAPH_INITIALIZER = 1, 5
NODE_OUTPUT, NODE_ATTRIBUTE = 2, 5
ATTRIBUTE_TENSOR = 5
TENSOR_NAME, TENSOR_RAW, TENSOR_FLOATS = 8, 9, 4

Place = tuple[int, int]
"""Of bytes in the file, the end exclusive."""


def places(content: bytes) -> dict[str, Place]:
    """The bytes of each tensor that lies in one piece: of initializers by their names, of constants by their nodes'
    outputs. What is no well-formed message raises ValueError."""
    found: dict[str, Place] = {}
    for graph in _fields(content, (0, len(content)), MODEL_GRAPH):
        for tensor in _fields(content, graph, GRAPH_INITIALIZER):
            for name in _fields(content, tensor, TENSOR_NAME):
                _note(found, content, name, tensor)
        for node in _fields(content, graph, GRAPH_NODE):
            for attribute in _fields(content, node, NODE_ATTRIBUTE):
                for tensor in _fields(content, attribute, ATTRIBUTE_TENSOR):
                    for name in _fields(content, node, NODE_OUTPUT):
                        _note(found, content, name, tensor)
    return found


def with_numbers(content: bytes, numbers: Mapping[str, bytes], where: Mapping[str, Place]) -> bytes:
    """The file with other numbers in some of its tensors, as many bytes as there were."""
    changed = bytearray(content)
    for name, new in numbers.items():
        start, end = where[name]
        if len(new) != end - start:
            raise ValueError(f"{name!r} has {end - start} bytes in the file, and {len(new)} were given")
        changed[start:end] = new
    return bytes(changed)


def _note(found: dict[str, Place], content: bytes, name: Place, tensor: Place) -> None:
    data = [*_fields(content, tensor, TENSOR_RAW), *_fields(content, tensor, TENSOR_FLOATS)]
    if len(data) == 1:
        found[content[slice(*name)].decode("utf-8", "replace")] = data[0]


def _fields(content: bytes, message: Place, wanted: int) -> Iterator[Place]:
    """The contents of the fields with a length whose number is `wanted`."""
    place, end = message
    while place < end:
        tag, place = _varint(content, place, end)
        number, kind = tag >> 3, tag & 7
        if kind == VARINT:
            _, place = _varint(content, place, end)
        elif kind in (FIXED32, FIXED64):
            place += 4 if kind == FIXED32 else 8
        elif kind == BYTES:
            length, place = _varint(content, place, end)
            if number == wanted and place + length <= end:
                yield place, place + length
            place += length
        else:
            raise ValueError(f"a field of the kind {kind}")
        if place > end:
            raise ValueError("a field that ends outside of its message")


def _varint(content: bytes, place: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while place < end and shift < 70:
        byte = content[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
        shift += 7
    raise ValueError("a number without an end")
