"""One request over HTTP: sent again where that is safe, its errors turned into ours."""

from __future__ import annotations

import itertools
import random
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
from pydantic import ValidationError

from redeem.contract import Problem
from redeem.errors import RedeemError, ServerProblem, Unreachable

ATTEMPTS = 4
FIRST_PAUSE, LONGEST_PAUSE = 0.25, 8.0  # seconds
BUSY = {429, 502, 503, 504}
NOT_DONE = {429, 503}  # the server says that it did nothing; behind 502 and 504 it may have
SAFE = {"GET", "HEAD", "PUT", "DELETE"}
# A long poll takes 30 s and a ping comes every 15 s, so silence for a minute is a dead connection.
TIMEOUT = httpx.Timeout(60.0, connect=5.0)


def connect(server: str, key: str) -> httpx.Client:
    if not server.startswith(("http://", "https://")):
        raise Unreachable(
            "bad_address", f"{server!r} is no address of a server.", "Give one like http://127.0.0.1:8642."
        )
    headers = {"Authorization": f"Bearer {key}"}
    return httpx.Client(base_url=server, headers=headers, timeout=TIMEOUT)


def new_idempotency_key() -> str:
    return str(uuid.uuid4())


def pauses(attempts: int = ATTEMPTS) -> Iterator[float]:
    """Seconds to wait before each repetition: doubling, with jitter, ending when it is time to give up."""
    for attempt in range(attempts - 1):
        yield min(LONGEST_PAUSE, FIRST_PAUSE * 2**attempt) * random.uniform(0.5, 1.5)  # noqa: S311  no secret


def request(
    client: httpx.Client, method: str, path: str, *, repeat: bool | None = None, **content: Any
) -> httpx.Response:
    """Send, and return the answer of success. Raises ServerProblem or Unreachable.

    A request that the server certainly did not act on is sent again. One that it may have acted on is sent again only
    where that changes nothing: `repeat`, by default what HTTP says of the method.
    """
    repeat = method in SAFE if repeat is None else repeat
    for pause in itertools.chain(pauses(), [None]):
        try:
            response = client.request(method, path, **content)
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            if pause is None:
                raise unreachable(client, error) from error
        except httpx.TransportError as error:
            if pause is None or not repeat:
                raise unreachable(client, error) from error
        else:
            if response.is_success:
                return response
            if pause is None or response.status_code not in (BUSY if repeat else NOT_DONE):
                raise problem(response)
            pause = asked_pause(response, pause)
        time.sleep(pause)
    raise AssertionError("the last attempt returns or raises")


@contextmanager
def stream(client: httpx.Client, method: str, path: str, **content: Any) -> Iterator[httpx.Response]:
    """One answer of success, its body not yet read. Nothing is repeated: who reads knows where to go on. Raises
    ServerProblem, or httpx.TransportError when the connection breaks."""
    with client.stream(method, path, **content) as response:
        if not response.is_success:
            response.read()
            raise problem(response)
        yield response


def asked_pause(response: httpx.Response, otherwise: float) -> float:
    """Seconds of Retry-After where the server gives them, at most a minute."""
    asked = response.headers.get("Retry-After", "")
    return min(60.0, float(asked)) if asked.isdecimal() else otherwise


def unreachable(client: httpx.Client, error: httpx.TransportError) -> RedeemError:
    return Unreachable(
        "unreachable",
        f"No answer from {client.base_url}: {error or type(error).__name__}.",
        "Is the server running there? Start one with `redeem serve`, or give its address: --server or REDEEM_SERVER.",
    )


def problem(response: httpx.Response) -> ServerProblem:
    """The server's own words where it speaks problem+json; a proxy's status otherwise."""
    status = response.status_code
    try:
        said = Problem.model_validate_json(response.content)
    except ValidationError:
        return ServerProblem(
            status,
            f"http_{status}",
            f"{response.request.method} {response.request.url.path} was answered with HTTP {status}.",
            "This is not Redeem's own error: check the address, and what stands between here and the server.",
        )
    return ServerProblem(status, said.code, said.detail, said.hint, said.errors)
