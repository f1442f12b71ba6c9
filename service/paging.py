"""Keyset paging: a page is named by the id of the last row before it, so rows that come meanwhile shift nothing."""

from __future__ import annotations

import base64
import binascii
from typing import Annotated
from uuid import UUID

from fastapi import Query

from service.errors import InvalidRequest

Cursor = Annotated[str | None, Query(max_length=64, description="`next_cursor` of the page before")]
Limit = Annotated[int, Query(ge=1, le=200)]


def make_cursor(last: UUID) -> str:
    return base64.urlsafe_b64encode(last.bytes).decode().rstrip("=")


def read_cursor(cursor: str) -> UUID:
    """Raises InvalidRequest."""
    try:
        return UUID(bytes=base64.b64decode(f"{cursor}==".encode(), altchars=b"-_", validate=True))
    except (binascii.Error, ValueError) as error:
        raise InvalidRequest("`cursor` is not one that this server gave.") from error
