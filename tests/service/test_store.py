"""Where bytes live, in a folder and in S3: the same promises."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import obstore
import pytest
from obstore.store import ObjectStore

from service import store
from service.settings import Settings

CONTENT = bytes(range(256)) * 30_000  # 7.7 MB: more than one part of a multipart upload
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture(params=["folder", "s3"])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    if request.param == "folder":
        return store.open_store(Settings(data=tmp_path))
    options = request.getfixturevalue("s3")
    return store.open_store(Settings(data=tmp_path, store_url=f"s3://redeem/{uuid4()}", store_options=options))


def names(opened: ObjectStore) -> list[str]:
    return [str(entry["path"]) for batch in obstore.list(opened) for entry in batch]


async def chunks(content: bytes, cut: bool = False) -> AsyncIterator[bytes]:
    for start in range(0, len(content), 2**20):
        yield content[start : start + 2**20]
    if cut:
        raise ConnectionResetError


def test_a_stream_is_filed_under_its_hash_and_read_back(opened: ObjectStore, tmp_path: Path) -> None:
    async def through() -> bytes:
        pending = store.part_key(uuid4(), uuid4())
        digest = await store.receive(opened, pending, chunks(CONTENT))
        assert (digest.size, digest.sha256) == (len(CONTENT), SHA256)
        await store.file_under_hash(opened, pending, SHA256)
        return b"".join([bytes(chunk) async for chunk in await store.open_range(opened, SHA256, 5, 5_000_000)])

    assert asyncio.run(through()) == CONTENT[5:5_000_000]
    assert names(opened) == [store.blob_key(SHA256)]
    store.download(opened, SHA256, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == CONTENT


def test_a_stream_that_breaks_leaves_nothing(opened: ObjectStore) -> None:
    with pytest.raises(ConnectionResetError):
        asyncio.run(store.receive(opened, store.part_key(uuid4(), uuid4()), chunks(CONTENT, cut=True)))
    assert names(opened) == []


def test_small_blobs_are_written_read_and_removed(opened: ObjectStore) -> None:
    store.check(opened)
    digest = store.put_bytes(opened, b"report")
    assert store.put_bytes(opened, b"report") == digest
    assert store.get_bytes(opened, digest.sha256) == b"report"
    store.remove(opened, digest.sha256)
    store.remove(opened, digest.sha256)
    with pytest.raises(FileNotFoundError):
        store.get_bytes(opened, digest.sha256)


def test_altered_bytes_are_not_believed(opened: ObjectStore, tmp_path: Path) -> None:
    digest = store.put_bytes(opened, b"report")
    obstore.put(opened, store.blob_key(digest.sha256), b"rep0rt")
    with pytest.raises(store.CorruptBlob):
        store.get_bytes(opened, digest.sha256)
    with pytest.raises(store.CorruptBlob):
        store.download(opened, digest.sha256, tmp_path / "copy")


def test_the_parts_of_an_upload_are_found_read_and_discarded_and_no_others(opened: ObjectStore) -> None:
    upload, other, part = uuid4(), uuid4(), uuid4()
    assert store.with_parts(opened) == []

    async def through() -> bytes:
        await store.write(opened, store.part_key(upload, part), chunks(CONTENT))
        await store.write(opened, store.part_key(other, part), chunks(b"others"))
        return b"".join([block async for block in store.read(opened, store.part_key(upload, part), len(CONTENT))])

    assert asyncio.run(through()) == CONTENT
    assert set(store.with_parts(opened)) == {upload, other}
    store.discard_parts(opened, upload)
    store.discard_parts(opened, upload)
    assert store.with_parts(opened) == [other]
    assert names(opened) == [store.part_key(other, part)]
