"""Weights files: what is read, and what is refused with advice."""

from __future__ import annotations

import contextlib
import json
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from redeem.scanning import Scan
from worker.stages.errors import Refused, StageError, TruncatedFile
from worker.stages.weights import read_weights, write_weights

STATE = {"b.weight": torch.arange(6.0).view(2, 3), "a": torch.tensor(7), "c": torch.ones(4, dtype=torch.bfloat16)}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "weights.safetensors"


def test_weights_go_out_and_come_back(path: Path) -> None:
    write_weights(path, STATE, {"job": "1"})
    read = read_weights(path).tensors
    assert read.keys() == STATE.keys()
    for key, tensor in STATE.items():
        assert read[key].dtype == tensor.dtype
        assert torch.equal(read[key], tensor)
    with safe_open(path, framework="pt") as file:
        assert json.loads(file.metadata()["redeem"]) == {"job": "1"}


def test_the_same_weights_give_the_same_bytes(path: Path) -> None:
    written = set()
    for _ in range(5):
        write_weights(path, STATE, {"job": "1", "suspect": "2", "method": "3"})
        written.add(path.read_bytes())
    assert len(written) == 1


@pytest.mark.parametrize("share", [0.0, 0.03, 0.3, 0.6, 0.99])
def test_a_cut_file_is_truncated(path: Path, share: float) -> None:
    write_weights(path, STATE, {})
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(TruncatedFile) as caught:
        read_weights(path)
    assert caught.value.code == "truncated_file"


def test_a_cut_file_says_how_much_is_missing(path: Path) -> None:
    write_weights(path, STATE, {})
    content = path.read_bytes()
    path.write_bytes(content[:-5])
    with pytest.raises(TruncatedFile, match=f"has {len(content) - 5} bytes, its header announces {len(content)}"):
        read_weights(path)


def test_a_longer_file_is_refused(path: Path) -> None:
    write_weights(path, STATE, {})
    path.write_bytes(path.read_bytes() + b"more")
    with pytest.raises(Refused, match="4 bytes behind") as caught:
        read_weights(path)
    assert caught.value.code == "safetensors_trailing_bytes"


def test_a_checkpoint_is_read_by_a_child(path: Path) -> None:
    torch.save({"state_dict": STATE, "epoch": 3, "optimizer": {"lr": 0.1}}, path)
    read = read_weights(path)
    assert (read.kind, read.scan) == ("checkpoint", Scan(scanner=f"picklescan {version('picklescan')}", findings=[]))
    assert read.tensors.keys() == STATE.keys()
    for key, tensor in STATE.items():
        assert read.tensors[key].dtype == tensor.dtype
        assert torch.equal(read.tensors[key], tensor)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(position=st.integers(0, 300), byte=st.integers(0, 255), cut=st.integers(0, 300))
def test_damage_never_escapes_as_a_foreign_error(path: Path, position: int, byte: int, cut: int) -> None:
    write_weights(path, STATE, {})
    content = bytearray(path.read_bytes())
    content[position % len(content)] = byte
    path.write_bytes(bytes(content[: len(content) - cut] if cut % 3 == 0 else content))
    with contextlib.suppress(StageError):
        read_weights(path)
