"""The bytes of an upload on their way in: how many, how fast, and only while there is room."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from uuid import UUID

from fastapi import Request

from service import store
from service.context import Context, RequestContext
from service.errors import (
    InsufficientStorage,
    ServiceError,
    SizeMismatch,
    TooLarge,
    TooManyUploads,
    TooSlow,
    UploadInterrupted,
)
from service.settings import Settings


class Body:
    """The body of a request, in blocks of about store.BLOCK bytes. Nothing is read before it is asked for, so that a
    store that is slow makes the sender wait.

    More bytes than there may be raise TooLarge or SizeMismatch. A body that cannot go on, since its sender is gone or
    slow or the disk nearly full, ends before its time; `cut` then says why, and what came until then is good.
    """

    def __init__(self, request: Request, here: Context, start: int, announced: int | None) -> None:
        """Its first byte is byte `start` of an upload of `announced` bytes."""
        self.end = start
        self.ended = False
        self.cut: ServiceError | None = None
        self.settled = asyncio.Event()
        """Set once nothing more of it will be kept."""
        self._reading: asyncio.Timeout | None = None
        self._receive = request.receive
        self._here = here
        self._announced = announced
        self._patience = here.settings.upload_patience.total_seconds()
        self._came = 0

    async def blocks(self, at_most: float = math.inf) -> AsyncIterator[bytes]:
        """What comes next, until about `at_most` bytes are there."""
        limit = self.end + at_most
        while not self.ended and self.end < limit:
            if not has_room(self._here):
                self._stop(InsufficientStorage("The disk of the store is nearly full."))
            elif block := await self._block(min(store.BLOCK, limit - self.end)):
                self.end += len(block)
                self._here.metrics.uploaded.inc(len(block))
                check_size(self.end, self._here.settings)
                check_limit(self.end, self._announced)
                yield block

    def stop(self, why: ServiceError) -> None:
        """End it from outside, unless all of it is there."""
        if not self.ended:
            self._stop(why)
            if self._reading is not None and not self._reading.expired():
                self._reading.reschedule(0.0)  # it waits for no more

    def _stop(self, why: ServiceError) -> None:
        self.ended, self.cut = True, why

    async def _block(self, enough: float) -> bytes:
        """Bytes as they come, until they are enough or the last. Only the time spent here is the sender's."""
        chunks: list[bytes] = []
        size, loop = 0, asyncio.get_running_loop()
        while size < enough and not self.ended:
            deadline = loop.time() + self._patience
            try:
                async with asyncio.timeout_at(deadline) as self._reading:
                    while size < enough and not self.ended:
                        chunks.append(await self._chunk())
                        size += len(chunks[-1])
            except TimeoutError:
                if not self.ended:
                    self._judge()
            else:
                self._patience = deadline - loop.time()
            finally:
                self._reading = None
        return b"".join(chunks)

    async def _chunk(self) -> bytes:
        message = await self._receive()
        if message["type"] == "http.disconnect":
            self._stop(UploadInterrupted("The bytes of the upload stopped before their end."))
            return b""
        self.ended = self.ended or not message.get("more_body", False)
        chunk: bytes = message.get("body", b"")
        self._came += len(chunk)
        return chunk

    def _judge(self) -> None:
        """Whether enough came in the time that is over."""
        settings = self._here.settings
        self._patience = settings.upload_patience.total_seconds()
        if self._came < settings.min_upload_rate * self._patience:
            self._stop(
                TooSlow(
                    f"{self._came} bytes came in {self._patience:g} s, and this server expects at least "
                    f"{settings.min_upload_rate} a second."
                )
            )
        self._came = 0


@contextmanager
def one_of_few(here: RequestContext) -> Iterator[None]:
    """Counts the uploads that a key sends at once. Raises TooManyUploads."""
    key = here.caller.name
    if here.sending[key] >= here.settings.uploads_per_key:
        raise TooManyUploads(f"This key is sending {here.sending[key]} uploads already.")
    here.sending[key] += 1
    try:
        yield
    finally:
        here.sending[key] -= 1
        if not here.sending[key]:
            del here.sending[key]


@asynccontextmanager
async def known(here: Context, upload: UUID, body: Body) -> AsyncIterator[None]:
    """Lets `settle` find the body while it comes and until what came is kept."""
    bodies = here.coming.setdefault(upload, set())
    bodies.add(body)
    try:
        yield
    finally:
        body.settled.set()
        bodies.discard(body)
        if not bodies:
            here.coming.pop(upload, None)


async def settle(here: Context, upload: UUID) -> None:
    """End what is still coming for an upload, and wait until it is kept. Whoever asks where to go on has given up what
    he sent before, even where the connection does not know yet; and what is kept of that is where to go on."""
    for body in list(here.coming.get(upload, ())):
        body.stop(UploadInterrupted("Somebody asked where to go on with this upload, which ends who was sending."))
        await body.settled.wait()


def has_room(here: Context, coming: int = 0) -> bool:
    free = store.free_bytes(here.store)
    return free is None or free - coming >= here.settings.min_free_bytes


def check_room(here: Context, coming: int) -> None:
    if not has_room(here, coming):
        raise InsufficientStorage(f"The disk of the store has no room for {coming} bytes.")


def check_size(size: int, settings: Settings) -> None:
    if size > settings.max_upload_bytes:
        raise TooLarge(f"This server takes files of at most {settings.max_upload_bytes} bytes.")


def check_limit(size: int, announced: int | None) -> None:
    if announced is not None and size > announced:
        raise SizeMismatch(f"The upload was announced with {announced} bytes, and more came.")
