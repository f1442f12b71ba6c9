"""How much of a request is read: little, except where a file is expected."""

from __future__ import annotations

import re

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_JSON = 8 * 2**20
"""Bytes. Room for a target for each of several hundred thousand triggered images."""


CONTENT = re.compile(r"/v1/uploads/[^/]+/content$")


class LimitBody:
    """ASGI middleware: a body of more than MAX_JSON bytes is refused with 413 while it comes, its announced length
    believed or not. The content of uploads is counted where it is read, against a setting."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or CONTENT.search(scope["path"]):
            await self.app(scope, receive, send)
            return
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > MAX_JSON:
                raise HTTPException(413, f"The body has more than the {MAX_JSON} bytes that this server reads.")
            return message

        await self.app(scope, counted, send)
