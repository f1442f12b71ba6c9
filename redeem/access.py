"""What a key may do, and what an operator sees of keys and tenants."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

from redeem.wire import Resource


class Scope(StrEnum):
    """A key has some of these, and each route of the service asks for one."""

    read = "read"
    """See what is there, and download it."""
    uploads_write = "uploads:write"
    """Upload files, and say what models and bundles they are."""
    jobs_write = "jobs:write"
    """Submit, cancel and retry jobs."""
    admin = "admin"
    """Everything in the tenant."""


class Tenant(Resource):
    """Who owns objects. Nobody sees another tenant's."""

    name: str
    created_at: datetime


class Key(Resource):
    """An API key, without its secret."""

    prefix: str
    """Its public part, which names it."""
    name: str
    tenant: str
    scopes: list[Scope]
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None
    """To the minute."""


class NewKey(Key):
    """A key that was made just now."""

    key: str
    """The key itself, which is told this once."""
