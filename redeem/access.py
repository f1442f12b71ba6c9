"""What a key may do."""

from __future__ import annotations

from enum import StrEnum


class Scope(StrEnum):
    """A key has some of these, and each route of the service asks for one."""

    read = "read"
    """See what is there, and download it."""
    uploads_write = "uploads:write"
    """Upload files, and say what models and bundles they are."""
    jobs_write = "jobs:write"
    """Submit and cancel jobs."""
    admin = "admin"
    """Everything in the tenant."""
