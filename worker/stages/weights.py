"""Weights files: safetensors, read without running anything in them, and written."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from worker.stages.errors import Refused, TruncatedFile, UnsupportedWeights
from worker.stages.tensor_file import LENGTH, check_tensor_file, is_tensor_file

FORMATS = {
    b"PK\x03\x04": "a zip archive, as torch.save writes it",
    b"\x80": "a Python pickle",
    b"\x89HDF": "an HDF5 file, as Keras writes it",
    b"GGUF": "a GGUF file",
    b"\x93NUMPY": "a NumPy array",
    b"\x1f\x8b": "a gzip archive",
    b"\x08": "probably an ONNX model, whose architecture is called onnx",
}


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file by name, on the CPU, all finite.

    Raises `TruncatedFile`, `UnsupportedWeights` and `Refused`.
    """
    with path.open("rb") as file:
        start = file.read(LENGTH + 1)
    if not start:
        raise TruncatedFile("the weights file is empty")
    if not is_tensor_file(start):
        raise _not_safetensors(start)
    check_tensor_file(path)
    try:
        weights = load_file(path)
    except SafetensorError as error:
        raise Refused("safetensors_rejected", f"not a well-formed safetensors file: {error}") from error
    for name, tensor in weights.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise Refused("weights_not_finite", f"{name} holds NaN or an infinity")
    return weights


def write_weights(path: Path, state: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
    """Write a safetensors file. `metadata` travels in its header, as JSON under `redeem`: several entries would come
    in a random order, and the same weights would have another hash each time."""
    save_file(dict(state), path, {"redeem": json.dumps(metadata, sort_keys=True)})


def _not_safetensors(start: bytes) -> TruncatedFile | UnsupportedWeights:
    for magic, what in FORMATS.items():
        if start.startswith(magic):
            return UnsupportedWeights(f"expected a safetensors file, got {what}")
    if len(start) <= LENGTH:
        return TruncatedFile(f"the weights file has {len(start)} bytes, less than the shortest safetensors file")
    return UnsupportedWeights("expected a safetensors file, got something else")
