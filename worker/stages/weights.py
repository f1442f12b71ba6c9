"""Weights files: safetensors, read without running anything in them, and written."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from worker.stages.errors import TruncatedWeights, UnsupportedWeights

LENGTH = 8  # bytes at the start of a safetensors file that hold the length of its header
MAX_HEADER = 16 * 2**20

FORMATS = {
    b"PK\x03\x04": "a zip archive, as torch.save writes it",
    b"\x80": "a Python pickle",
    b"\x89HDF": "an HDF5 file, as Keras writes it",
    b"GGUF": "a GGUF file",
    b"\x93NUMPY": "a NumPy array",
    b"\x1f\x8b": "a gzip archive",
    b"\x08": "probably an ONNX model",
}


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file by name, on the CPU. Raises `TruncatedWeights` and `UnsupportedWeights`."""
    with path.open("rb") as file:
        start = file.read(LENGTH + 1)
    length = int.from_bytes(start[:LENGTH], "little")
    if not start:
        raise TruncatedWeights("the weights file is empty")
    if start[LENGTH:] != b"{":
        raise _not_safetensors(start)
    if length > MAX_HEADER:
        raise UnsupportedWeights(
            f"the header of the safetensors file has {length} bytes, at most {MAX_HEADER} are read"
        )
    try:
        return load_file(path)
    except SafetensorError as error:
        actual, expected = path.stat().st_size, _announced_size(path, length)
        if actual < expected:
            raise TruncatedWeights(f"the weights file has {actual} bytes, its header announces {expected}") from error
        raise UnsupportedWeights(f"not a well-formed safetensors file: {error}") from error


def write_weights(path: Path, state: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file. `metadata` travels in its header, as JSON under `redeem`: several entries would come
    in a random order, and the same weights would have another hash each time."""
    save_file(dict(state), path, {"redeem": json.dumps(metadata, sort_keys=True)})


def _not_safetensors(start: bytes) -> TruncatedWeights | UnsupportedWeights:
    for magic, what in FORMATS.items():
        if start.startswith(magic):
            return UnsupportedWeights(f"expected a safetensors file, got {what}")
    if len(start) <= LENGTH:
        return TruncatedWeights(f"the weights file has {len(start)} bytes, less than the shortest safetensors file")
    return UnsupportedWeights("expected a safetensors file, got something else")


def _announced_size(path: Path, length: int) -> int:
    """The size that a file of this header should have, as far as one can tell; 0 where the header is nonsense."""
    with path.open("rb") as file:
        file.seek(LENGTH)
        header = file.read(length)
    if len(header) < length:
        return LENGTH + length
    try:
        entries = json.loads(header)
        ends = [entry["data_offsets"][1] for name, entry in entries.items() if name != "__metadata__"]
        return LENGTH + length + max(int(end) for end in ends)
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError):
        return 0
