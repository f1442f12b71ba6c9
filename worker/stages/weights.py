"""Weights files: read without running anything in them, and written. A checkpoint is made safetensors by a child."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from redeem.scanning import Scan
from worker.stages import sandbox
from worker.stages.confinement import Limits
from worker.stages.errors import ReadingFailed, Refused
from worker.stages.kind import CONVERTED, Kind, kind_of
from worker.stages.tensor_file import check_tensor_file


@dataclass(frozen=True)
class Weights:
    """The tensors of a file by name, on the CPU, all finite; what the file was, and what a scanner says of its pickle,
    where it has one."""

    tensors: dict[str, Tensor]
    kind: Kind
    scan: Scan | None = None


def read_weights(path: Path) -> Weights:
    """Raises `TruncatedFile`, `UnsupportedWeights`, `Refused`, and for a checkpoint what `sandbox.run` does."""
    kind = kind_of(path)
    if kind == "safetensors":
        return Weights(read_tensors(path), kind)
    with tempfile.TemporaryDirectory(prefix="redeem-weights-") as folder:
        out = Path(folder) / "converted"
        size = path.stat().st_size
        # The storages, their copies, and the file that is written; twice as large where weights are tied.
        limits = Limits(memory=4 * size + 2**30, cpu=300, wall=900, file=2 * size + 2**24)
        facts = sandbox.run("convert_checkpoint", path, out, {}, limits)
        return Weights(read_tensors(out / CONVERTED), kind, _scan(facts))


def _scan(facts: dict[str, Any]) -> Scan:
    scanner = f"picklescan {version('picklescan')}"
    try:
        return Scan.model_validate({"scanner": scanner, "findings": facts.get("scan")})
    except ValidationError as error:
        raise ReadingFailed("the reader of the file gave no sensible answer") from error


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file by name, on the CPU, all finite. Raises `Refused` and `TruncatedFile`."""
    check_tensor_file(path)
    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise Refused("safetensors_rejected", f"not a well-formed safetensors file: {error}") from error
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise Refused("weights_not_finite", f"{name} holds NaN or an infinity")
    return tensors


def write_weights(path: Path, state: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
    """Write a safetensors file. `metadata` travels in its header, as JSON under `redeem`: several entries would come
    in a random order, and the same weights would have another hash each time."""
    save_file(dict(state), path, {"redeem": json.dumps(metadata, sort_keys=True)})
