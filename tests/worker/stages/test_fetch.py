"""From the store to files, hashed again on the way."""

from __future__ import annotations

from pathlib import Path

import pytest
from obstore import delete, put
from obstore.store import LocalStore

from service.store import blob_key, put_bytes
from worker.stages.errors import StoreDamaged
from worker.stages.fetch import Files, fetch


def test_files_are_what_was_uploaded(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store", mkdir=True)
    large = bytes(range(256)) * 10_000  # more than a chunk
    weights, clean = put_bytes(store, large).sha256, put_bytes(store, b"images").sha256
    files = fetch(store, tmp_path, weights=weights, clean=clean, triggered=None)
    assert files == Files(tmp_path / "weights", tmp_path / "clean", None)
    assert (files.weights.read_bytes(), files.clean.read_bytes()) == (large, b"images")
    again = fetch(store, tmp_path, weights=weights, clean=clean, triggered=clean)
    assert again.triggered is not None
    assert again.triggered.read_bytes() == b"images"


@pytest.mark.parametrize("content", [None, b"", b"image", b"images and more"])
def test_a_lost_or_altered_blob_is_told_without_the_servers_paths(tmp_path: Path, content: bytes | None) -> None:
    store = LocalStore(tmp_path / "store", mkdir=True)
    weights, clean = put_bytes(store, b"weights").sha256, put_bytes(store, b"images").sha256
    if content is None:
        delete(store, blob_key(clean))
    else:
        put(store, blob_key(clean), content)
    with pytest.raises(StoreDamaged, match="the clean of this job") as caught:
        fetch(store, tmp_path, weights=weights, clean=clean, triggered=None)
    assert clean in str(caught.value)
    assert str(tmp_path) not in str(caught.value)
