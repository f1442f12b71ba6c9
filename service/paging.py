"""Lists: keyset paging, and what all of them are filtered by. A page is named by the id of the last row before it, so
rows that come meanwhile shift nothing."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated
from uuid import UUID

from pydantic import AfterValidator, AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field
from sqlalchemy import ColumnElement, Engine, exists, func, type_coerce
from sqlalchemy.dialects.postgresql import JSONB

from redeem.contract import Sha256
from service.errors import InvalidRequest
from service.tables import BundleRow, DeliveryRow, JobRow, ModelRow, UploadRow, WebhookRow

if TYPE_CHECKING:  # a worker has no use for FastAPI, and would import it for every job
    from fastapi import Request, Response

SLACK = 10
"""Seconds by which an id and its `created_at` may differ."""

Listed = type[UploadRow | ModelRow | BundleRow | JobRow | WebhookRow | DeliveryRow]


def _utc(time: datetime) -> datetime:
    try:
        return time.astimezone(UTC)
    except OverflowError as error:
        raise ValueError("a time between the years 1 and 9999 is expected, also in UTC") from error


def _written_out(value: object) -> object:
    if isinstance(value, str) and not re.match(r"\d{4}-\d\d-\d\d", value):  # else a number would be seconds since 1970
        raise ValueError("a time like 2026-01-31T12:00:00Z is expected")
    return value


Time = Annotated[AwareDatetime, BeforeValidator(_written_out), AfterValidator(_utc)]
Label = Annotated[str, Field(pattern=r"^[^=]+=", max_length=1024)]
Labels = Annotated[
    list[Label], Field(default_factory=list, max_length=32, description="`key=value`; several must all be there")
]


class Listing(BaseModel):
    """The query of every list. A parameter that does not exist is an error: mistyped, a filter would filter nothing."""

    model_config = ConfigDict(extra="forbid")
    cursor: Annotated[str | None, Field(max_length=64, description="`next_cursor` of the page before")] = None
    limit: Annotated[int, Field(ge=1, le=200)] = 50
    created_after: Annotated[Time | None, Field(description="Then or later")] = None
    created_before: Annotated[Time | None, Field(description="Earlier than that")] = None


class FileListing(Listing):
    sha256: Annotated[Sha256 | None, Field(description="Of the uploaded bytes")] = None


def created_between(table: Listed, listing: Listing) -> Iterator[ColumnElement[bool]]:
    """Ids are UUIDv7 and begin with their time, so the primary key finds the rows; `created_at`, which is taken a
    moment after the id, decides."""
    if listing.created_after is not None:
        yield table.id >= _id_near(listing.created_after, -SLACK)
        yield table.created_at >= listing.created_after
    if listing.created_before is not None:
        yield table.id < _id_near(listing.created_before, SLACK)
        yield table.created_at < listing.created_before


def labelled(engine: Engine, table: type[ModelRow] | type[JobRow], label: str) -> ColumnElement[bool]:
    """Rows whose `labels` have this one, written `key=value`."""
    key, _, value = label.partition("=")
    if engine.dialect.name == "postgresql":
        return type_coerce(table.labels, JSONB).contains({key: value})
    each = func.json_each(table.labels).table_valued("key", "value")
    return exists().where(each.c.key == key, each.c.value == value)


def make_cursor(last: UUID) -> str:
    return base64.urlsafe_b64encode(last.bytes).decode().rstrip("=")


def read_cursor(cursor: str) -> UUID:
    """Raises InvalidRequest."""
    try:
        return UUID(bytes=base64.b64decode(f"{cursor}==".encode(), altchars=b"-_", validate=True))
    except (binascii.Error, ValueError) as error:
        raise InvalidRequest("`cursor` is not one that this server gave.") from error


def link_next(request: Request, response: Response, next_cursor: str | None) -> None:
    """`Link: <…>; rel="next"`, with the same filters. Relative: what stands before the server knows its own address."""
    if next_cursor is not None:
        url = request.url.include_query_params(cursor=next_cursor)
        response.headers["Link"] = f'<{url.path}?{url.query}>; rel="next"'


def _id_near(time: datetime, seconds: int) -> UUID:
    """The least UUIDv7 of the millisecond that many seconds later."""
    return UUID(int=max(0, int((time.timestamp() + seconds) * 1000)) << 80)
