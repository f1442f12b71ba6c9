"""How much a tenant may have at once: jobs that wait, webhooks, and bytes that are stored.

They are counted before each new one, so callers at the same moment may exceed them by a few.
"""

from __future__ import annotations

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from redeem.contract import JobState
from service.errors import JobQuotaExceeded, StorageQuotaExceeded, WebhookQuotaExceeded
from service.settings import Settings
from service.tables import ArtifactRow, JobRow, UploadRow, WebhookRow


def check_jobs(session: Session, settings: Settings) -> None:
    """Room for another queued job, or JobQuotaExceeded. `session` is bound to the tenant."""
    queued = session.scalar(select(func.count()).where(JobRow.state == JobState.queued)) or 0
    if queued >= settings.max_queued_jobs:
        raise JobQuotaExceeded(f"{queued} jobs of this tenant wait already, and {settings.max_queued_jobs} may.")


def check_webhooks(session: Session, settings: Settings) -> None:
    """Room for another webhook, or WebhookQuotaExceeded. `session` is bound to the tenant."""
    there = session.scalar(select(func.count()).select_from(WebhookRow)) or 0
    if there >= settings.max_webhooks:
        raise WebhookQuotaExceeded(f"This tenant has {there} webhooks, and may have {settings.max_webhooks}.")


def check_bytes(session: Session, settings: Settings, more: int) -> None:
    """Room for so many bytes more, or StorageQuotaExceeded. `session` is bound to the tenant. Uploads that are under
    way count with what was announced, or what came where nothing was."""
    if not settings.max_stored_bytes:
        return
    sizes = (func.coalesce(UploadRow.size, UploadRow.received), ArtifactRow.size)
    stored = sum(session.scalar(select(func.sum(size))) or 0 for size in sizes)
    if stored + more > settings.max_stored_bytes:
        raise StorageQuotaExceeded(
            f"This tenant stores {stored} bytes, and may store {settings.max_stored_bytes}; there came {more} more."
        )


def check_upload(session: Session, settings: Settings, upload: UploadRow, end: int) -> None:
    """Room for an upload's bytes up to `end`, beyond what it counts with already, or StorageQuotaExceeded."""
    counted = upload.received if upload.size is None else upload.size
    check_bytes(session, settings, max(0, end - counted))
