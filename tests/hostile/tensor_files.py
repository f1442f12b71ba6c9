"""safetensors files that break a rule, each one rule. Made here, at the time of the test."""

from __future__ import annotations

import json
import struct
from typing import Any

F32 = {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}
NUMBERS = struct.pack("<4f", 1, 2, 3, 4)


def tensor_file(header: Any, content: bytes = NUMBERS, length: int | None = None) -> bytes:
    """`header` is JSON, or what to write in its place; `length` is what the file says of it."""
    written = header if isinstance(header, bytes) else json.dumps(header).encode()
    written += b" " * (-len(written) % 8)
    return (len(written) if length is None else length).to_bytes(8, "little") + written + content


def entry(dtype: str = "F32", shape: Any = (2, 2), begin: Any = 0, end: Any = 16, **more: Any) -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end], **more}


def holding(number: float) -> bytes:
    return tensor_file({"a": F32}, struct.pack("<4f", 1, number, 3, 4))


TRICKS: dict[str, tuple[bytes, str]] = {
    "a header of 2**63 bytes": (tensor_file({"a": F32}, length=2**63), "safetensors_header_too_long"),
    "a header above the cap": (tensor_file(b"{" + b" " * 2**24 + b"}"), "safetensors_header_too_long"),
    "a header longer than the file": (tensor_file({"a": F32}, length=10_000), "truncated_file"),
    "a header cut in two": (tensor_file(b'{"a": {"dtype"'), "safetensors_header_malformed"),
    "a header that is a list in disguise": (tensor_file(b"{}[]"), "safetensors_header_malformed"),
    "a header that is not UTF-8": (tensor_file(b'{"\xff": 1}'), "safetensors_header_malformed"),
    "a header of half a surrogate": (
        tensor_file(b'{"\\ud800": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}}'),
        "safetensors_name",
    ),
    "a header nested 5,000 deep": (tensor_file(b'{"a":' * 5_000 + b"1" + b"}" * 5_000), "safetensors_header_malformed"),
    "a header of a million brackets": (tensor_file(b'{"a":[' + b"[]," * 10**6), "safetensors_too_many_tensors"),
    "an integer of 5,000 digits": (tensor_file(b'{"a": ' + b"9" * 5_000 + b"}"), "safetensors_header_malformed"),
    "NaN as a shape": (
        tensor_file(b'{"a": {"dtype": "F32", "shape": [NaN], "data_offsets": [0, 16]}}'),
        "safetensors_header_malformed",
    ),
    "too many tensors": (
        tensor_file({f"{number}": entry(shape=[0], end=0) for number in range(20_001)}),
        "safetensors_too_many_tensors",
    ),
    "a name twice": (
        tensor_file(b'{"a": %b, "a": %b}' % ((json.dumps(F32).encode(),) * 2)),
        "safetensors_duplicate_name",
    ),
    "metadata twice": (
        tensor_file(b'{"__metadata__": {"k": "good", "k": "bad"}, "a": %b}' % json.dumps(F32).encode()),
        "safetensors_duplicate_metadata",
    ),
    "metadata of numbers": (tensor_file({"__metadata__": {"k": 1}, "a": F32}), "safetensors_metadata_malformed"),
    "metadata that is a text": (tensor_file({"__metadata__": "k", "a": F32}), "safetensors_metadata_malformed"),
    "long metadata": (
        tensor_file({"__metadata__": {"k": "x" * 2**20}, "a": F32}),
        "safetensors_metadata_too_long",
    ),
    "a long name": (tensor_file({"a" * 513: F32}), "safetensors_name"),
    "an empty name": (tensor_file({"": F32}), "safetensors_name"),
    "a name with a line break": (tensor_file({"a\n\x1b[2Jb": F32}), "safetensors_name"),
    "a name that reads backwards": (tensor_file({"a\u202eb": F32}), "safetensors_name"),
    "an entry that is a number": (tensor_file({"a": 1}), "safetensors_entry_malformed"),
    "an entry without a shape": (
        tensor_file({"a": {"dtype": "F32", "data_offsets": [0, 16]}}),
        "safetensors_entry_malformed",
    ),
    "an entry with more than it needs": (tensor_file({"a": entry(module="os")}), "safetensors_entry_malformed"),
    "a negative size": (tensor_file({"a": entry(shape=[-2, -2])}), "safetensors_entry_malformed"),
    "a size that is true": (tensor_file({"a": entry(shape=[True, 4])}), "safetensors_entry_malformed"),
    "a size of a half": (tensor_file({"a": entry(shape=[0.5, 8])}), "safetensors_entry_malformed"),
    "an offset of 10**30": (tensor_file({"a": entry(end=10**30)}), "safetensors_entry_malformed"),
    "a shape of a thousand": (tensor_file({"a": entry(shape=[1] * 1_000)}), "safetensors_entry_malformed"),
    "an unknown dtype": (tensor_file({"a": entry("F99")}), "safetensors_dtype"),
    "a dtype that is no number of ours": (tensor_file({"a": entry("F8_E4M3", end=4)}), "safetensors_dtype"),
    "nine dimensions": (tensor_file({"a": entry(shape=[2, 2, *[1] * 7])}), "safetensors_rank"),
    "nothing times 2**62": (tensor_file({"a": entry(shape=[0, 2**62], end=0)}, b""), "safetensors_empty_tensor"),
    "a product that overflows to 16 bytes": (
        tensor_file({"a": entry(shape=[2**62 + 1, 4])}),
        "safetensors_too_many_numbers",
    ),
    "a shape larger than its bytes": (tensor_file({"a": entry(shape=[3, 2])}), "safetensors_size_mismatch"),
    "an end before the beginning": (tensor_file({"a": entry(begin=16, end=0)}), "safetensors_size_mismatch"),
    "two tensors on the same bytes": (tensor_file({"a": F32, "b": F32}), "safetensors_overlap"),
    "tensors that overlap": (
        tensor_file({"a": F32, "b": entry(begin=8, end=24)}, NUMBERS + bytes(8)),
        "safetensors_overlap",
    ),
    "a hole": (tensor_file({"a": entry(begin=8, end=24)}, NUMBERS + bytes(8)), "safetensors_hole"),
    "bytes behind the last tensor": (tensor_file({"a": F32}, NUMBERS + b"#!/bin/sh"), "safetensors_trailing_bytes"),
    "a tensor that ends after the file": (tensor_file({"a": F32}, NUMBERS[:-1]), "truncated_file"),
    "NaN": (holding(float("nan")), "weights_not_finite"),
    "an infinity": (holding(float("-inf")), "weights_not_finite"),
}
