"""One delivery on the wire: signed, posted once, followed nowhere, its answer's body left unread."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from ssl import SSLContext

import httpcore
from standardwebhooks import Webhook

from service.webhooks.guard import Forbidden, Guard, Networks

TIMEOUT = 15.0
"""Seconds from the connection to the status."""


@dataclass(frozen=True)
class Answer:
    """What came of it: a status, or an error instead; and for how many seconds the endpoint wants to be left alone."""

    status: int | None = None
    error: str | None = None
    retry_after: float | None = None

    @property
    def good(self) -> bool:
        return self.status is not None and 200 <= self.status < 300


def signatures(id: str, at: datetime, body: str, secrets: Sequence[str]) -> str:
    """One for each secret: while a secret is changed the endpoint may know either."""
    return " ".join(Webhook(secret).sign(id, at, body) for secret in secrets)


def post(url: str, id: str, body: str, secrets: Sequence[str], allowed: Networks, timeout: float = TIMEOUT) -> Answer:
    at = datetime.now(UTC)
    headers: dict[bytes | str, bytes | str] = {
        "Content-Type": "application/json",
        "User-Agent": "Redeem",
        "Connection": "close",
        "webhook-id": id,
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": signatures(id, at, body, secrets),
    }
    guard = Guard(allowed, encrypted=url.startswith("https:"), seconds=timeout)
    try:
        with (
            httpcore.ConnectionPool(ssl_context=_ssl_context(), network_backend=guard) as pool,
            pool.stream("POST", url, headers=headers, content=body.encode()) as response,
        ):
            return Answer(response.status, retry_after=_retry_after(response))
    except Forbidden as error:
        return Answer(error=f"forbidden: {error}")
    except httpcore.TimeoutException:
        return Answer(error=f"there was no answer within {timeout:g} s")
    except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.UnsupportedProtocol, ValueError) as error:
        return Answer(error=f"{type(error).__name__}: {error}"[:200])


@cache
def _ssl_context() -> SSLContext:
    return httpcore.default_ssl_context()


def _retry_after(response: httpcore.Response) -> float | None:
    """Seconds. The other form, a date, is of clocks that need not agree, and is passed over."""
    names = {name.lower(): value for name, value in response.headers}
    given = names.get(b"retry-after", b"").strip()
    return float(given) if given.isdigit() and len(given) < 10 else None
