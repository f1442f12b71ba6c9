"""What a safetensors file claims, checked before its tensors are looked at.

The library checks offsets and sizes; these checks are stricter, come first, and say what is wrong by a code. They read
the header and no more.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from worker.stages.errors import Refused, TruncatedFile

LENGTH = 8  # bytes at the start that hold the length of the header
MAX_HEADER = 16 * 2**20
MAX_TENSORS = 20_000
MAX_NAME = 512
MAX_METADATA = 2**20  # characters
MAX_RANK = 8
MAX_NUMBERS = 2**34

NAME = re.compile(r"[ -~]+")  # printable ASCII: names go into messages, reports and logs
BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}


@dataclass(frozen=True)
class Entry:
    """A tensor as the header has it; `begin` and `end` count bytes from the end of the header."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


class _Pairs(list[tuple[str, Any]]):
    """A JSON object with every key as often as it came."""


def is_tensor_file(start: bytes) -> bool:
    """Whether a file that begins with these 9 bytes may be one."""
    return start[LENGTH:] == b"{"


def check_tensor_file(path: Path) -> dict[str, Entry]:
    """The tensors of a safetensors file by name. Raises `Refused` and `TruncatedFile`."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(LENGTH), "little")
        if length > MAX_HEADER:
            raise Refused(
                "safetensors_header_too_long", f"the header has {length} bytes, at most {MAX_HEADER} are read"
            )
        if LENGTH + length > size:
            raise _truncated(size, LENGTH + length)
        pairs = _parse(file.read(length))
    names = [name for name, _ in pairs]
    if len(set(names)) != len(names):
        raise Refused("safetensors_duplicate_name", f"{_shown(_first_duplicate(names))} is in the header twice")
    entries = {}
    for name, value in pairs:
        if name == "__metadata__":
            _check_metadata(value)
        else:
            _check_name(name)
            entries[name] = _entry(name, value)
    _check_layout(entries, size - LENGTH - length, size)
    return entries


def _parse(header: bytes) -> _Pairs:
    # Before a header of brackets becomes a hundred times its size in objects.
    if header.count(b"{") > MAX_TENSORS + 2 or header.count(b"[") > 2 * MAX_TENSORS:
        raise Refused("safetensors_too_many_tensors", f"the header names more than {MAX_TENSORS} tensors")
    try:
        parsed = json.loads(header, object_pairs_hook=_Pairs, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise Refused("safetensors_header_malformed", "the header of the safetensors file is not JSON") from error
    if not isinstance(parsed, _Pairs) or not header.startswith(b"{"):
        raise Refused("safetensors_header_malformed", "the header of the safetensors file is not a JSON object")
    if len(parsed) > MAX_TENSORS + 1:
        raise Refused("safetensors_too_many_tensors", f"{len(parsed)} tensors, at most {MAX_TENSORS} are read")
    return parsed


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _check_metadata(value: Any) -> None:
    if not isinstance(value, _Pairs) or not all(isinstance(text, str) for _, text in value):
        raise Refused("safetensors_metadata_malformed", "__metadata__ is not an object of texts")
    keys = [key for key, _ in value]
    if len(set(keys)) != len(keys):
        told = _shown(_first_duplicate(keys))
        raise Refused(
            "safetensors_duplicate_metadata", f"__metadata__ has {told} twice, and readers differ in which counts"
        )
    length = sum(len(key) + len(text) for key, text in value)
    if length > MAX_METADATA:
        raise Refused("safetensors_metadata_too_long", f"__metadata__ has {length} characters, at most {MAX_METADATA}")


def _check_name(name: str) -> None:
    if len(name) > MAX_NAME:
        raise Refused("safetensors_name", f"a tensor's name has {len(name)} characters, at most {MAX_NAME} are read")
    if not NAME.fullmatch(name):
        raise Refused(
            "safetensors_name", f"the tensor {_shown(name)} has a name of other than printable ASCII characters"
        )


def _entry(name: str, value: Any) -> Entry:
    fields = dict(value) if isinstance(value, _Pairs) and len(value) == 3 else {}
    dtype, shape, offsets = fields.get("dtype"), _naturals(fields.get("shape")), _naturals(fields.get("data_offsets"))
    if not isinstance(dtype, str) or shape is None or offsets is None or len(offsets) != 2:
        raise Refused("safetensors_entry_malformed", f"{name} has not a dtype, a shape and two data_offsets")
    if dtype not in BYTES:
        raise Refused("safetensors_dtype", f"{name} is {_shown(dtype)}; expected one of {', '.join(BYTES)}")
    if len(shape) > MAX_RANK:
        raise Refused("safetensors_rank", f"{name} has {len(shape)} dimensions, at most {MAX_RANK} are read")
    if math.prod(size for size in shape if size) > MAX_NUMBERS:  # (0, 2**62) has no number, and overflows elsewhere
        code = "safetensors_empty_tensor" if 0 in shape else "safetensors_too_many_numbers"
        raise Refused(code, f"{name} is of shape {shape}; at most {MAX_NUMBERS} numbers are read")
    needed = math.prod(shape) * BYTES[dtype]
    if offsets[1] - offsets[0] != needed:
        told = f"{name} is {dtype} {shape}, {needed} bytes, and its data_offsets are {offsets}"
        raise Refused("safetensors_size_mismatch", told)
    return Entry(dtype, tuple(shape), offsets[0], offsets[1])


def _naturals(value: Any) -> list[int] | None:
    """The value, where it is a list of whole numbers that 64 bits hold. A list of a million is no shape."""
    few = isinstance(value, list) and len(value) <= 64
    return value if few and all(type(number) is int and 0 <= number < 2**63 for number in value) else None


def _check_layout(entries: dict[str, Entry], available: int, size: int) -> None:
    """Every byte behind the header belongs to one tensor."""
    reached, before = 0, "the header"
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].begin, item[1].end)):
        if entry.begin < reached:
            raise Refused("safetensors_overlap", f"{name} and {before} share bytes")
        if entry.begin > reached:
            raise Refused(
                "safetensors_hole", f"{entry.begin - reached} bytes between {before} and {name} are no tensor's"
            )
        reached, before = entry.end, name
    if reached > available:
        raise _truncated(size, size - available + reached)
    if reached < available:
        raise Refused(
            "safetensors_trailing_bytes", f"{available - reached} bytes behind the last tensor are no tensor's"
        )


def _truncated(actual: int, expected: int) -> TruncatedFile:
    return TruncatedFile(f"the file has {actual} bytes, its header announces {expected}")


def _first_duplicate(names: list[str]) -> str:
    seen: set[str] = set()
    return next(name for name in names if name in seen or seen.add(name))  # type: ignore[func-returns-value]


def _shown(text: str) -> str:
    return ascii(text if len(text) <= 120 else f"{text[:120]}…")
