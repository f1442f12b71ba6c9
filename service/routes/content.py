"""client → store: the bytes of an upload, in one go or in parts; an upload row that is complete.

HEAD and PATCH have the shape of the IETF's resumable uploads (draft-ietf-httpbis-resumable-upload).
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from uuid import UUID, uuid4

from fastapi import APIRouter, Request, Response
from fastapi.concurrency import run_in_threadpool
from obstore.exceptions import BaseError
from starlette.datastructures import Headers

from redeem.contract import Upload, UploadState
from service import blobs, parts, quotas, records, store
from service.context import Context, Here
from service.errors import (
    BadUploadHeader,
    EmptyUpload,
    HashMismatch,
    InsufficientStorage,
    MismatchingOffset,
    NotFound,
    ServiceError,
    SizeMismatch,
    StorageQuotaExceeded,
    TooLarge,
    TooManyUploads,
    TooSlow,
    UploadComplete,
    UploadInterrupted,
    WrongMediaType,
)
from service.receiving import Body, check_limit, check_room, check_size, known, one_of_few, settle
from service.responses import RAW, RAW_BODY, Responses, refusals
from service.scopes import UPLOADS_WRITE
from service.tables import UploadPartRow, UploadRow, now

router = APIRouter(tags=["uploads"])

PARTIAL = "application/partial-upload"
RECEIVING = (
    NotFound,
    TooSlow,
    UploadComplete,
    TooLarge,
    SizeMismatch,
    HashMismatch,
    EmptyUpload,
    TooManyUploads,
    InsufficientStorage,
    StorageQuotaExceeded,
)
"""Why bytes may be refused, however they come."""
TAKEN: Responses = {204: {"description": "They are there, and more is expected"}}
APPENDING = {
    "parameters": [
        {"name": "Upload-Offset", "in": "header", "required": True, "schema": {"type": "integer", "minimum": 0}},
        {"name": "Upload-Complete", "in": "header", "required": True, "schema": {"enum": ["?0", "?1"]}},
        {"name": "Upload-Length", "in": "header", "required": False, "schema": {"type": "integer", "minimum": 0}},
    ],
    "requestBody": {"required": True, "content": {PARTIAL: {"schema": RAW}}},
}
"""What /openapi.json says of a PATCH."""


@router.put(
    "/uploads/{id}/content",
    dependencies=UPLOADS_WRITE,
    openapi_extra=RAW_BODY,
    responses=refusals(*RECEIVING, UploadInterrupted),
)
async def put_content(id: UUID, request: Request, here: Here) -> Upload:
    """The whole file as the raw body (`curl -T file`). What was announced is checked; after a refusal the upload is
    still open, and the file can be sent again. Of bytes that stop before their end those that came are kept, and PATCH
    sends the others."""
    upload = await run_in_threadpool(_find, here, id)
    if upload.state == UploadState.complete:
        raise _refusal(upload, 0)
    length = _number(request.headers, "Content-Length")
    if length is not None:
        check_size(length, here.settings)
        _check_announced(upload.size, length)
    await run_in_threadpool(_check_quota, here, id, length or 0)
    check_room(here, length or 0)
    body = Body(request, here, 0, upload.size)
    with one_of_few(here):
        async with known(here, id, body), _undisturbed(here, id, 0):
            digest = await _receive_whole(here, upload, body)
            return await _complete(here, id, digest)


@router.head("/uploads/{id}/content", dependencies=UPLOADS_WRITE, status_code=204, responses=refusals(NotFound))
async def get_offset(id: UUID, here: Here) -> Response:
    """Where to go on: the bytes before `Upload-Offset` are in the store, and need not be sent again. It ends a request
    that is still sending, since who asks has given that one up; GET /v1/uploads/{id} only looks."""
    await run_in_threadpool(_find, here, id)
    await settle(here, id)
    upload = await run_in_threadpool(_find, here, id)
    age = now() - (upload.received_at or upload.created_at)
    left = max(0, int((here.settings.upload_expiry - age).total_seconds()))
    headers = _standing(upload.received, complete=upload.state == UploadState.complete)
    headers["Upload-Limit"] = f"max-size={here.settings.max_upload_bytes}"
    if upload.state == UploadState.open:
        headers["Upload-Limit"] += f", max-age={left}"
    if upload.size is not None:
        headers["Upload-Length"] = str(upload.size)
    return Response(status_code=204, headers=headers)


@router.patch(
    "/uploads/{id}/content",
    dependencies=UPLOADS_WRITE,
    response_model=Upload,
    openapi_extra=APPENDING,
    responses=TAKEN | refusals(*RECEIVING, BadUploadHeader, UploadInterrupted, MismatchingOffset, WrongMediaType),
)
async def append_content(id: UUID, request: Request, response: Response, here: Here) -> Upload | Response:
    """Go on where an upload stopped: the bytes from `Upload-Offset` on, with `Upload-Complete: ?1` up to the last one,
    and with `?0` some of them. They stay as they come, whatever becomes of the request."""
    append = _read_append(request.headers)
    upload = await run_in_threadpool(_begin, here, id, append)
    check_room(here, append.coming or 0)
    with one_of_few(here):
        body = Body(request, here, append.offset, upload.size or append.length)
        async with known(here, id, body), _undisturbed(here, id, append.offset):
            await _receive_parts(here, id, body)
        if not append.last:
            upload = await run_in_threadpool(_find, here, id)
            return Response(status_code=204, headers=_standing(upload.received, complete=False))
        async with _undisturbed(here, id, body.end):
            digest = await _assemble(here, id)
    done = await _complete(here, id, digest)
    response.headers.update(_standing(digest.size, complete=True))
    return done


# Headers ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Append:
    """What a PATCH says of itself: where its bytes belong, whether they are the last, how many they are, and how many
    the file has; None where it does not tell."""

    offset: int
    last: bool
    coming: int | None
    length: int | None


def _read_append(headers: Headers) -> Append:
    if headers.get("Content-Type", "").partition(";")[0].strip().lower() != PARTIAL:
        raise WrongMediaType(f"PATCH takes {PARTIAL}, and this is {headers.get('Content-Type') or 'nothing'}.")
    offset, last = _number(headers, "Upload-Offset"), headers.get("Upload-Complete")
    if offset is None or last not in ("?0", "?1"):
        raise BadUploadHeader("A PATCH needs `Upload-Offset` (a number) and `Upload-Complete` (?0 or ?1).")
    coming, length = _number(headers, "Content-Length"), _number(headers, "Upload-Length")
    if last == "?1" and coming is not None:
        _check_announced(length, offset + coming)
        length = offset + coming
    return Append(offset, last == "?1", coming, length)


def _number(headers: Headers, name: str) -> int | None:
    value = headers.get(name)
    if value is None:
        return None
    if not re.fullmatch(r"\d{1,15}", value, re.ASCII):
        raise BadUploadHeader(f"{name} is not a number of bytes: {value[:40]!r}.")
    return int(value)


def _standing(received: int, *, complete: bool) -> dict[str, str]:
    return {
        "Upload-Offset": str(received),
        "Upload-Complete": "?1" if complete else "?0",
        "Cache-Control": "no-store",
    }


# Bytes -----------------------------------------------------------------------------------------------------------


async def _receive_whole(here: Context, upload: UploadRow, body: Body) -> store.Digest:
    """Hashed on their way to the store, and filed under that hash. A body that is cut is the upload's first part."""
    part, kept = uuid4(), False
    key = store.part_key(upload.id, part)
    try:
        digest = await store.receive(here.store, key, body.blocks())
        if body.cut is not None:
            kept = digest.size > 0 and await run_in_threadpool(_append, here, upload.id, 0, digest.size, part)
            raise body.cut
        _check_digest(upload, digest)
        await run_in_threadpool(_check_quota, here, upload.id, digest.size)
        await store.file_under_hash(here.store, key, digest.sha256)
    finally:
        if not kept:
            await store.discard(here.store, key)
    return digest


async def _receive_parts(here: Context, id: UUID, body: Body) -> None:
    """Each part counts as soon as it is in the store, so a server that dies loses the bytes of one at most."""
    while not body.ended:
        start, part = body.end, uuid4()
        key = store.part_key(id, part)
        await store.write(here.store, key, body.blocks(here.settings.upload_part_bytes))
        if body.end == start:
            await store.discard(here.store, key)
            continue
        try:
            if not await run_in_threadpool(_append, here, id, start, body.end, part):
                raise await _conflict(here, id, start)
        except ServiceError:
            await store.discard(here.store, key)
            raise
    if body.cut is not None:
        raise body.cut


async def _assemble(here: Context, id: UUID) -> store.Digest:
    """All parts as one file, hashed while it is made of them, and filed under that hash."""
    upload, found = await run_in_threadpool(_find_parts, here, id)
    if upload.state == UploadState.complete or sum(part.size for part in found) != upload.received:
        raise await _conflict(here, id, upload.received)  # somebody else has finished it meanwhile
    _check_announced(upload.size, upload.received)
    key = store.part_key(id, uuid4())
    try:
        digest = await store.receive(here.store, key, _joined(here, id, found))
        _check_digest(upload, digest)
        await store.file_under_hash(here.store, key, digest.sha256)
    except HashMismatch:
        await run_in_threadpool(_begin_anew, here, id)
        raise
    finally:
        await store.discard(here.store, key)
    return digest


async def _joined(here: Context, id: UUID, found: list[UploadPartRow]) -> AsyncIterator[bytes]:
    for part in found:
        async for block in store.read(here.store, store.part_key(id, part.id), part.size):
            yield block


# Rows ------------------------------------------------------------------------------------------------------------


def _find(here: Context, id: UUID) -> UploadRow:
    with here.readers() as session:
        return records.find(session, UploadRow, id)


def _find_parts(here: Context, id: UUID) -> tuple[UploadRow, list[UploadPartRow]]:
    with here.readers() as session:
        return records.find(session, UploadRow, id), parts.of(session, id)


def _begin(here: Context, id: UUID, append: Append) -> UploadRow:
    """The upload, once what the request tells of its length is known to fit."""
    with here.sessions.begin() as session:
        upload = records.find(session, UploadRow, id)
        if upload.received != append.offset or upload.state == UploadState.complete:
            raise _refusal(upload, append.offset)
        if append.length is not None:
            check_size(append.length, here.settings)
            _check_announced(upload.size, append.length)
            parts.announce(session, id, append.length)
        end = append.offset + (append.coming or 0)
        check_size(end, here.settings)
        check_limit(end, upload.size)
        quotas.check_upload(session, here.settings, upload, end)
        return upload


def _check_quota(here: Context, id: UUID, end: int) -> None:
    with here.readers() as session:
        quotas.check_upload(session, here.settings, records.find(session, UploadRow, id), end)


def _append(here: Context, id: UUID, start: int, end: int, part: UUID) -> bool:
    with here.sessions.begin() as session:
        quotas.check_upload(session, here.settings, records.find(session, UploadRow, id), end)
        return parts.append(session, id, start, end, part)


def _begin_anew(here: Context, id: UUID) -> None:
    with here.sessions.begin() as session:
        parts.forget(session, id)
    store.discard_parts(here.store, id)


async def _complete(here: Context, id: UUID, digest: store.Digest) -> Upload:
    upload = await run_in_threadpool(_set_complete, here, id, digest)
    await run_in_threadpool(store.discard_parts, here.store, id)
    return upload


def _set_complete(here: Context, id: UUID, digest: store.Digest) -> Upload:
    with here.sessions.begin() as session:
        if not blobs.still_there(session, here.store, digest.sha256):
            raise UploadInterrupted(f"The bytes of upload {id} went as the same bytes were deleted elsewhere just now.")
        if not parts.complete(session, id, digest.size, digest.sha256):
            records.find(session, UploadRow, id)
            raise UploadComplete(f"Upload {id} got its bytes from another request meanwhile.")
        quotas.check_bytes(session, here.settings, 0)
        return Upload.model_validate(records.find(session, UploadRow, id), from_attributes=True)


@asynccontextmanager
async def _undisturbed(here: Context, id: UUID, offset: int) -> AsyncIterator[None]:
    """Where somebody else finishes or removes the upload meanwhile, its parts go, and that is said."""
    try:
        yield
    except FileNotFoundError:
        raise await _conflict(here, id, offset) from None
    except BaseError as error:  # what a store says of a file that goes while it is written
        refusal = await _conflict(here, id, offset)
        if isinstance(refusal, UploadComplete):
            raise refusal from error
        raise


async def _conflict(here: Context, id: UUID, provided: int) -> ServiceError:
    """Why bytes are not taken, as things are by now. Raises NotFound where the upload is gone."""
    return _refusal(await run_in_threadpool(_find, here, id), provided)


def _refusal(upload: UploadRow, provided: int) -> ServiceError:
    if upload.state == UploadState.complete:
        return UploadComplete(f"Upload {upload.id} already has its {upload.size} bytes.")
    return MismatchingOffset(
        f"Upload {upload.id} goes on at byte {upload.received}, and these bytes begin at {provided}.",
        headers=_standing(upload.received, complete=False),
        members={"expected-offset": upload.received, "provided-offset": provided},
    )


def _check_announced(announced: int | None, size: int) -> None:
    if announced is not None and size != announced:
        raise SizeMismatch(f"The upload was announced with {announced} bytes, and {size} came.")


def _check_digest(upload: UploadRow, digest: store.Digest) -> None:
    if digest.size == 0:
        raise EmptyUpload("The body has no bytes.")
    _check_announced(upload.size, digest.size)
    if upload.sha256 is not None and digest.sha256 != upload.sha256:
        raise HashMismatch(
            f"The upload was announced with SHA-256 {upload.sha256}, and the bytes have {digest.sha256}."
        )
