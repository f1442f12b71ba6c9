"""Where bytes live: content-addressed blobs in an object store, written once, named by their SHA-256."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, cast
from uuid import UUID, uuid4

import obstore
from obstore.store import LocalStore, ObjectStore, from_url

from service.settings import Settings

CHUNK = 2**20


@dataclass(frozen=True)
class Digest:
    """What was measured on bytes that went by."""

    size: int
    sha256: str


class CorruptBlob(Exception):
    """Bytes in the store do not have the hash that they are filed under."""


def open_store(settings: Settings) -> ObjectStore:
    """A folder, or S3 and its kin. A store on the network is asked again for half a minute before it counts as down."""
    if settings.store_url:
        return from_url(
            settings.store_url,
            config=cast(Any, settings.store_options),
            client_options={"connect_timeout": "5s", "timeout": "60s", "allow_http": True},
            retry_config={"max_retries": 8, "retry_timeout": timedelta(seconds=30)},
        )
    settings.store.mkdir(parents=True, exist_ok=True)
    return LocalStore(settings.store)


def blob_key(sha256: str) -> str:
    return f"blobs/{sha256[:2]}/{sha256}"


def pending_key(upload: UUID) -> str:
    """Where an upload's bytes lie until their hash is known: a new place for each attempt, so that two at once cannot
    file one's bytes under the other's hash."""
    return f"uploads/{upload}-{uuid4()}"


async def receive(store: ObjectStore, key: str, chunks: AsyncIterator[bytes]) -> Digest:
    """Stream bytes to `key`, hashing them on the way; memory stays at a few chunks. A failing stream leaves nothing."""
    digest, size = hashlib.sha256(), 0

    async def hashed() -> AsyncIterator[bytes]:
        nonlocal size
        async for chunk in chunks:
            digest.update(chunk)
            size += len(chunk)
            yield chunk

    await obstore.put_async(store, key, hashed())
    return Digest(size, digest.hexdigest())


async def file_under_hash(store: ObjectStore, pending: str, sha256: str) -> None:
    """Move received bytes to where their hash says. Bytes that are there already are the same ones."""
    await obstore.rename_async(store, pending, blob_key(sha256))


async def discard(store: ObjectStore, pending: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        await obstore.delete_async(store, pending)


async def open_range(store: ObjectStore, sha256: str, start: int, end: int) -> AsyncIterator[bytes]:
    """The bytes `start` to `end` (exclusive) of a blob, a chunk at a time. Raises FileNotFoundError before the first
    chunk is asked for, where the blob is not there."""
    if start == end:
        return _nothing()
    result = await obstore.get_async(store, blob_key(sha256), options={"range": (start, end)})
    return aiter(result.stream(CHUNK))


async def _nothing() -> AsyncIterator[bytes]:
    return
    yield b""


def check(store: ObjectStore) -> None:
    """Write a few bytes, or raise what stands in the way."""
    obstore.put(store, "probe", b"ready")


def put_bytes(store: ObjectStore, content: bytes) -> Digest:
    """File a blob under its hash, and read it back: what is recorded afterwards is known to be there."""
    digest = Digest(len(content), hashlib.sha256(content).hexdigest())
    obstore.put(store, blob_key(digest.sha256), content)
    get_bytes(store, digest.sha256)
    return digest


def get_bytes(store: ObjectStore, sha256: str) -> bytes:
    """A small blob, hashed again. Raises FileNotFoundError where it is gone, and CorruptBlob where it was altered."""
    content = bytes(obstore.get(store, blob_key(sha256)).bytes())
    actual = hashlib.sha256(content).hexdigest()
    if actual != sha256:
        raise CorruptBlob(f"blob {sha256} has the hash {actual}")
    return content


def remove(store: ObjectStore, sha256: str) -> None:
    """Delete a blob that no row names any more."""
    with contextlib.suppress(FileNotFoundError):
        obstore.delete(store, blob_key(sha256))


def download(store: ObjectStore, sha256: str, path: Path) -> None:
    """Copy a blob to a file, hashing again on the way: what is loaded is what was uploaded, or CorruptBlob."""
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for chunk in obstore.get(store, blob_key(sha256)).stream(CHUNK):
            digest.update(chunk)
            file.write(chunk)
    if digest.hexdigest() != sha256:
        raise CorruptBlob(f"blob {sha256} has the hash {digest.hexdigest()}")
