"""Where bytes live: content-addressed blobs in an object store, written once, named by their SHA-256."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import os
import shutil
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, cast
from uuid import UUID

import obstore
from obstore.exceptions import BaseError
from obstore.store import LocalStore, ObjectStore, from_url

from service.errors import InsufficientStorage
from service.settings import Settings

CHUNK = 2**20
BLOCK = 5 * 2**20
"""What is hashed and written at once. Larger ones need more memory, smaller ones more turns; object stores take no
smaller pieces of a file."""
NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True)
class Digest:
    """What was measured on bytes that went by."""

    size: int
    sha256: str


class CorruptBlob(Exception):
    """Bytes in the store do not have the hash that they are filed under."""


def open_store(settings: Settings, patience: timedelta = timedelta(seconds=30)) -> ObjectStore:
    """A folder, or S3 and its kin. A store on the network is asked again for `patience` before it counts as down."""
    if settings.store_url:
        return from_url(
            settings.store_url,
            config=cast(Any, settings.store_options),
            client_options={"connect_timeout": "5s", "timeout": "60s", "allow_http": True},
            retry_config={"max_retries": 8, "retry_timeout": patience},
        )
    settings.store.mkdir(parents=True, exist_ok=True)
    return LocalStore(settings.store)


def blob_key(sha256: str) -> str:
    return f"blobs/{sha256[:2]}/{sha256}"


def part_key(upload: UUID, part: UUID) -> str:
    """Where bytes of an upload lie until all of them are there and their hash is known. Each attempt has a place of its
    own, so that two at once cannot file one's bytes under the other's hash."""
    return f"parts/{upload}/{part}"


async def receive(store: ObjectStore, key: str, blocks: AsyncIterator[bytes]) -> Digest:
    """Stream bytes to `key`, hashing them on the way: while a block is hashed in a thread, the one before it is written
    and the one after it comes in. Memory stays at a few blocks. A failing stream leaves nothing."""
    digest, size = hashlib.sha256(), 0

    async def hashed() -> AsyncIterator[bytes]:
        nonlocal size
        hashing: asyncio.Future[None] | None = None
        async for block in blocks:
            if hashing is not None:
                await hashing
            hashing = asyncio.ensure_future(asyncio.to_thread(digest.update, block))
            size += len(block)
            yield block
        if hashing is not None:
            await hashing

    await write(store, key, hashed())
    return Digest(size, digest.hexdigest())


async def write(store: ObjectStore, key: str, blocks: AsyncIterator[bytes]) -> None:
    """Stream bytes to `key`, and be sure of them: once this has returned they outlive a crash of the machine. A failing
    stream leaves nothing. Raises InsufficientStorage, and FileNotFoundError where `discard_parts` came in between."""
    place = Path(str(store.prefix), key) if isinstance(store, LocalStore) else None
    try:
        await obstore.put_async(store, key, blocks, chunk_size=BLOCK, max_concurrency=2)
    except (BaseError, OSError) as error:
        if is_full(error):
            raise InsufficientStorage("The disk of the store is full.") from error
        if place is not None and not place.parent.exists():  # obstore only says that the upload was aborted
            raise FileNotFoundError(str(place.parent)) from error
        raise
    if place is not None:
        await asyncio.to_thread(sync, place)


def is_full(error: BaseException) -> bool:
    """Whether it says that a disk has no room: obstore only in words."""
    if isinstance(error, OSError):
        return error.errno in NO_SPACE
    return isinstance(error, BaseError) and any(f"(os error {number})" in str(error) for number in NO_SPACE)


def sync(path: Path) -> None:
    """Have the disk keep a file and its name."""
    for place in (path, path.parent):
        descriptor = os.open(place, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


async def read(store: ObjectStore, key: str, size: int) -> AsyncIterator[bytes]:
    """The bytes at `key`, in blocks."""
    for start in range(0, size, BLOCK):
        yield (await obstore.get_range_async(store, key, start=start, end=min(size, start + BLOCK))).to_bytes()


async def file_under_hash(store: ObjectStore, pending: str, sha256: str) -> None:
    """Move received bytes to where their hash says. Bytes that are there already are the same ones."""
    await obstore.rename_async(store, pending, blob_key(sha256))


async def discard(store: ObjectStore, key: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        await obstore.delete_async(store, key)


def discard_parts(store: ObjectStore, upload: UUID) -> None:
    """Delete all that came of an upload and is not filed."""
    prefix = f"parts/{upload}"
    if isinstance(store, LocalStore):  # a process that was killed leaves files there that the store does not list
        shutil.rmtree(Path(str(store.prefix), prefix), ignore_errors=True)
        return
    for listed in obstore.list(store, prefix):
        obstore.delete(store, [entry["path"] for entry in listed])


def with_parts(store: ObjectStore) -> list[UUID]:
    """The uploads that have something under `parts/`."""
    return [
        UUID(prefix.rpartition("/")[2]) for prefix in obstore.list_with_delimiter(store, "parts")["common_prefixes"]
    ]


def free_bytes(store: ObjectStore) -> int | None:
    """Room on the disk of the store; None where no disk of this machine is the limit."""
    return shutil.disk_usage(str(store.prefix)).free if isinstance(store, LocalStore) else None


def has(store: ObjectStore, sha256: str) -> bool:
    try:
        obstore.head(store, blob_key(sha256))
    except FileNotFoundError:
        return False
    return True


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
