"""Results go into the store under their hashes, and are named as they are there."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch
from obstore import put
from obstore.store import MemoryStore, ObjectStore
from safetensors.torch import load

from service.store import CorruptBlob, get_bytes
from worker.stages.publish import publish_files

WEIGHTS = {"fc.weight": torch.ones(2, 3), "fc.bias": torch.zeros(2, dtype=torch.float16)}
PICTURES = [("history.svg", "image/svg+xml", b"<svg/>")]


def test_what_is_named_is_in_the_store(tmp_path: Path) -> None:
    store = MemoryStore()
    artifacts = publish_files(store, tmp_path, WEIGHTS, {"suspect": "1" * 64}, PICTURES)
    assert [artifact.name for artifact in artifacts] == ["purified.safetensors", "history.svg"]
    for artifact in artifacts:
        content = get_bytes(store, artifact.sha256)
        assert (artifact.size, artifact.sha256) == (len(content), hashlib.sha256(content).hexdigest())
    content = get_bytes(store, artifacts[0].sha256)
    assert {key: tensor.dtype for key, tensor in load(content).items()} == {
        key: tensor.dtype for key, tensor in WEIGHTS.items()
    }
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    assert json.loads(header["__metadata__"]["redeem"]) == {"suspect": "1" * 64}
    assert get_bytes(store, artifacts[1].sha256) == b"<svg/>"


def test_a_store_that_writes_something_else_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def careless(store: ObjectStore, key: str, content: bytes) -> None:
        put(store, key, content[:-1])

    monkeypatch.setattr("service.store.obstore.put", careless)
    store = MemoryStore()
    with pytest.raises(CorruptBlob):
        publish_files(store, tmp_path, WEIGHTS, {}, [])
