"""`Idempotency-Key`: a request that creates may be sent twice, and creates once.

The key, which is the tenant's own, and what it made are written in one transaction, so there is no state in between:
the second request gets the resource as it is by then.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Annotated

from fastapi import Header
from pydantic import BaseModel
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from service.errors import Deleted, KeyInUse, KeyReused
from service.records import Row
from service.tables import IdempotencyRow

IdempotencyKey = Annotated[str | None, Header(min_length=1, max_length=255, description="New for each resource")]


def once(session: Session, key: str | None, request: BaseModel, table: type[Row], make: Callable[[], Row]) -> Row:
    """What `make` makes, or what it made when this key came first. Raises KeyReused where the key came with another
    request, KeyInUse where the first one is not through yet, and Deleted where what it made is gone."""
    if key is None:
        return make()
    key_hash = _sha256(key)
    fingerprint = _sha256(f"{table.__tablename__} {request.model_dump_json()}")
    earlier = session.scalar(select(IdempotencyRow).where(IdempotencyRow.key_hash == key_hash))
    if earlier is None:
        row = make()
        session.add(IdempotencyRow(key_hash=key_hash, fingerprint=fingerprint, made=row.id))
        try:
            session.flush()
        except IntegrityError as error:
            raise KeyInUse("Another request with this Idempotency-Key is under way.") from error
        return row
    if earlier.fingerprint != fingerprint:
        raise KeyReused("This Idempotency-Key came with another request before.")
    made = session.get(table, earlier.made)
    if made is None:
        raise Deleted("What the first request with this Idempotency-Key made was deleted since.")
    return made


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
