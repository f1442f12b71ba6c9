"""What stages keep comes back as it was, or not at all."""

from __future__ import annotations

import pytest
import torch
from obstore import delete, put
from obstore.store import MemoryStore

from service.store import blob_key
from worker.stages.errors import StoreDamaged
from worker.stages.kept import Kept, read_kept, write_kept

KEPT = Kept(
    {"mpa": 1 / 3, "asr": None, "history": [{"epoch": 1, "loss": 1e-17}]},
    {"b": torch.arange(6.0).view(2, 3).t(), "a": torch.tensor([True]), "c": torch.ones(2, dtype=torch.float16)},
)


def test_what_is_kept_comes_back() -> None:
    store = MemoryStore()
    artifact = write_kept(store, "purify", KEPT)
    read = read_kept(store, artifact.sha256)
    assert artifact.name == "purify"
    assert read.facts == KEPT.facts
    assert read.tensors.keys() == KEPT.tensors.keys()
    for key, tensor in KEPT.tensors.items():
        assert read.tensors[key].dtype == tensor.dtype
        assert torch.equal(read.tensors[key], tensor)


def test_facts_alone_come_back() -> None:
    store = MemoryStore()
    assert read_kept(store, write_kept(store, "assess_before", Kept({"mpa": 1.0}, {})).sha256) == Kept({"mpa": 1.0}, {})


def test_what_was_lost_or_altered_is_told() -> None:
    store = MemoryStore()
    sha256 = write_kept(store, "purify", KEPT).sha256
    put(store, blob_key(sha256), b"something else")
    with pytest.raises(StoreDamaged, match="altered") as caught:
        read_kept(store, sha256)
    assert "again" in caught.value.hint
    delete(store, blob_key(sha256))
    with pytest.raises(StoreDamaged, match="no longer"):
        read_kept(store, sha256)
