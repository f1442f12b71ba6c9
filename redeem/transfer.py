"""Files over HTTP: streamed both ways, hashed on the way, and never half there."""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import BufferedRandom
from pathlib import Path

import httpx

from redeem.errors import BadInput, Corrupt, RedeemError, ServerProblem, Unreachable
from redeem.http import BUSY, pauses, problem, request, stream, unreachable

CHUNK = 2**20
PARTIAL = "application/partial-upload"
PASSING = {408, 409, *BUSY}
"""What a server says of an upload that may well go on."""
STUBBORN = 9  # attempts without a byte of progress, over half a minute
TIMEOUT = httpx.Timeout(60.0, connect=5.0, read=300.0)  # parts are put together before the answer comes
Advance = Callable[[int], None]
"""Is told how many bytes went by; a negative number takes back what has to go again."""


def ignore(count: int) -> None:
    pass


def digest(path: Path) -> tuple[int, str]:
    """Size in bytes and SHA-256 of a file. Raises BadInput where it cannot be read or is empty."""
    try:
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            size = file.tell()
    except OSError as error:
        raise BadInput(
            "file_unreadable", f"{path} cannot be read: {error.strerror}.", "Check the path and its permissions."
        ) from error
    if size == 0:
        raise BadInput("file_empty", f"{path} is empty.", "Give the file that was meant.")
    return size, sha256


def send(client: httpx.Client, url: str, path: Path, size: int, advance: Advance) -> None:
    """Bring a whole file to an upload whose hash was announced: by PUT, and where that breaks off the rest by PATCH,
    from the byte up to which the server has it. Gives up, with what was in the way, when nothing gets through for
    half a minute. Raises Unreachable, ServerProblem."""
    body, waiting, farthest, broken = _Body(path, advance), pauses(STUBBORN), 0, False
    while True:
        try:
            offset = _offset(client, url) if broken else 0
            if offset is None:
                return
            if offset > farthest:
                farthest, waiting = offset, pauses(STUBBORN)
            _send_from(client, url, body.after(offset), offset, size, method="PATCH" if broken else "PUT")
            return
        except ServerProblem as refusal:
            if refusal.code == "upload_complete":  # an attempt went through whose answer got lost
                return
            if refusal.status not in PASSING:
                raise
            trouble: RedeemError = refusal
        except Unreachable as error:
            trouble = error
        if (pause := next(waiting, None)) is None:
            raise trouble
        time.sleep(pause)
        broken = True


def _send_from(client: httpx.Client, url: str, body: _Body, offset: int, size: int, method: str) -> None:
    headers = {"Content-Length": str(size - offset), "Content-Type": "application/octet-stream"}
    if method == "PATCH":
        headers |= {"Content-Type": PARTIAL, "Upload-Offset": str(offset), "Upload-Complete": "?1"}
    try:
        response = client.request(method, url, headers=headers, content=body, timeout=TIMEOUT)
    except httpx.TransportError as error:
        raise unreachable(client, error) from error
    if not response.is_success:
        raise problem(response)


def _offset(client: httpx.Client, url: str) -> int | None:
    """Where to go on; None where all of it is there."""
    headers = request(client, "HEAD", url).headers
    return None if headers.get("Upload-Complete") == "?1" else int(headers.get("Upload-Offset", 0))


class _Body:
    """The bytes of a file, from one of them on. It can be read again, as sending it again needs."""

    def __init__(self, path: Path, advance: Advance) -> None:
        self.path = path
        self.advance = advance
        self.start = 0
        self.told = 0
        """Up to which byte `advance` knows."""

    def after(self, start: int) -> _Body:
        self.start = start
        return self

    def __iter__(self) -> Iterator[bytes]:
        self.advance(self.start - self.told)
        self.told = self.start
        with self.path.open("rb") as file:
            file.seek(self.start)
            while chunk := file.read(CHUNK):
                yield chunk
                self.told += len(chunk)
                self.advance(len(chunk))


def receive(client: httpx.Client, url: str, target: Path, sha256: str | None = None, advance: Advance = ignore) -> Path:
    """GET a file. Its SHA-256 has to be the expected one, by default the ETag's; a connection that breaks is taken up
    where it broke. Raises Corrupt, Unreachable, ServerProblem; `target` is then as it was before."""
    with _beside(target) as file:
        etag, waiting = "", pauses()
        while True:
            start = file.tell()
            # Bytes as stored: a compressed answer would have other offsets.
            headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-", "If-Range": etag} if etag else {})
            try:
                with stream(client, "GET", url, headers=headers) as response:
                    etag = response.headers.get("ETag", "")
                    _append(file, response, advance)
                break
            except httpx.TransportError as error:
                waiting = waiting if file.tell() == start else pauses()
                if (pause := next(waiting, None)) is None:
                    raise unreachable(client, error) from error
                time.sleep(pause)
        _verify(file, sha256 or _sha256_of(etag, url), url)
    return target


def write(target: Path, content: bytes) -> Path:
    with _beside(target) as file:
        file.write(content)
    return target


def _append(file: BufferedRandom, response: httpx.Response, advance: Advance) -> None:
    """The part that was asked for, or all anew where the server sends the whole."""
    if response.status_code != httpx.codes.PARTIAL_CONTENT:
        advance(-file.tell())
        file.seek(0)
        file.truncate()
    for chunk in response.iter_raw():
        file.write(chunk)
        advance(len(chunk))


def _sha256_of(etag: str, url: str) -> str:
    match = re.search(r"[0-9a-f]{64}", etag)
    if match is None:
        raise Corrupt("hash_missing", f"The server gave no hash for {url}.", "Check what stands between here and it.")
    return match.group()


def _verify(file: BufferedRandom, expected: str, url: str) -> None:
    file.seek(0)
    measured = hashlib.file_digest(file, "sha256").hexdigest()
    if measured != expected:
        raise Corrupt(
            "hash_mismatch",
            f"{url} came with SHA-256 {measured}, but {expected} was announced.",
            "Nothing was kept. Try again; if it happens again, the server's store or something on the way is damaged.",
        )


@contextmanager
def _beside(target: Path) -> Iterator[BufferedRandom]:
    """A file in the target's folder that takes the target's name once the block ended well, and vanishes otherwise."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    except OSError as error:
        raise BadInput(
            "file_unwritable", f"{target} cannot be written: {error.strerror}.", "Give a folder that you may write."
        ) from error
    try:
        with os.fdopen(handle, "w+b") as file:
            yield file
        os.chmod(name, 0o666 & ~_umask())  # mkstemp's 0600 would surprise whoever else reads results
        os.replace(name, target)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(name)
        raise


def _umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask
