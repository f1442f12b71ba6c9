"""What service and worker say while they run: JSON lines on stderr, one a request. No bodies, no headers, no keys.

Lines say of what they are: `request`, `tenant`, `job`, `trace`, bound where each is known.
"""

from __future__ import annotations

import re
import sys
import time
from uuid import uuid4

import structlog
from opentelemetry import trace
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from structlog.typing import EventDict

from service.tenancy import Caller

log = structlog.get_logger(__name__)

LONGEST = 8192
SECRETS = {
    re.compile(r"(redeem_(?:[0-9a-f]{12}_)?)[A-Za-z0-9_-]{43}"): r"\1…",  # API keys
    re.compile(r"eyJ[\w-]+\.[\w-]+\.[\w-]*"): "eyJ…",  # tokens of an OpenID Connect issuer
    re.compile(r"(whsec_)[A-Za-z0-9+/=]+"): r"\1…",  # webhooks' secrets
    re.compile(r"(://[^/@\s:\"]*:)[^/@\s]+@"): r"\1…@",  # passwords in addresses of brokers and databases
    re.compile(r"([Bb][Ee][Aa][Rr][Ee][Rr] )[^\s\"\\]+"): r"\1…",
    re.compile(r"-----BEGIN[A-Z ]* PRIVATE KEY-----[^-\"]*"): "…",
}
"""Patterns in a line of JSON, and what stays of them."""
_AS_JSON = structlog.processors.JSONRenderer()


def configure() -> None:
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            _add_trace,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            _cut,
            _rendered,
        ],
        logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),
        cache_logger_on_first_use=False,
    )


def _add_trace(logger: object, method: str, event: EventDict) -> EventDict:
    """The trace that a line belongs to, where one is recorded."""
    here = trace.get_current_span().get_span_context()
    return {**event, "trace": f"{here.trace_id:032x}"} if here.is_valid else event


def _cut(logger: object, method: str, event: EventDict) -> EventDict:
    """What is long is cut, after a look for secrets: a half of one would not be known again."""
    return {
        name: f"{_blotted(value)[:LONGEST]} … ({len(value)} characters)"
        if isinstance(value, str) and len(value) > LONGEST
        else value
        for name, value in event.items()
    }


def _rendered(logger: object, method: str, event: EventDict) -> str:
    """A line of JSON. The last net: what looks like a secret is blotted out, whoever put it into a message."""
    return _blotted(str(_AS_JSON(logger, method, event)))


def _blotted(text: str) -> str:
    for pattern, kept in SECRETS.items():
        text = pattern.sub(kept, text)
    return text


class LogRequests:
    """ASGI middleware: gives every request an id, or keeps the one that it came with, tells it in `X-Request-Id`, and
    logs one line when it is answered."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request_id, began, status = _request_id(scope), time.monotonic(), 500
        scope.setdefault("state", {})["request_id"] = request_id

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["X-Request-Id"] = request_id
            await send(message)

        with structlog.contextvars.bound_contextvars(request=request_id):
            try:
                await self.app(scope, receive, send_with_id)
            finally:
                seconds = round(time.monotonic() - began, 4)
                log.info(
                    "request",
                    method=scope["method"],
                    path=scope["path"],
                    status=status,
                    seconds=seconds,
                    **_who(scope["state"].get("caller")),
                )


def _who(caller: Caller | None) -> dict[str, str]:
    return {} if caller is None else {"tenant": str(caller.tenant), "caller": caller.name}


def _request_id(scope: Scope) -> str:
    """What a proxy or a client calls the request, where that is fit for a log; a new name otherwise."""
    given = Headers(scope=scope).get("x-request-id", "")
    return given if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._:/+=@-]{0,127}", given) else uuid4().hex
