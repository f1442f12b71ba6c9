"""What is to be delivered: written with the change that it tells of, taken by one sender at a time, tried again for
three days."""

from __future__ import annotations

import base64
import random
import secrets
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from redeem.contract import JobState
from redeem.webhooks import DeliveryState, Event, EventData, EventType
from service.clock import from_now
from service.tables import DeliveryRow, JobRow, WebhookRow, now
from service.webhooks.sending import TIMEOUT, Answer

PAUSES = tuple(map(float, (5, 5 * 60, 30 * 60, *(hours * 3600 for hours in (2, 5, 10, 14, 20, 24)))))
"""Seconds before each further attempt: ten attempts within about three days."""
LONGEST_PAUSE = PAUSES[-1]
LEASE = timedelta(seconds=4 * TIMEOUT)
"""After how long a delivery whose sender was killed is tried again."""
OVERLAP = timedelta(hours=24)
"""For how long a former secret still signs."""
LOGGED = 20

ENDS = {
    JobState.succeeded: EventType.job_succeeded,
    JobState.failed: EventType.job_failed,
    JobState.cancelled: EventType.job_cancelled,
}


@dataclass(frozen=True)
class Parcel:
    """A delivery that this process has taken."""

    id: UUID
    webhook: UUID
    url: str
    body: str
    secrets: tuple[str, ...]


def new_secret() -> str:
    return f"whsec_{base64.b64encode(secrets.token_bytes(32)).decode()}"


def tell_of_end(session: Session, job: JobRow) -> None:
    """Put a job's end into the outbox, for each endpoint of its tenant that wants it. In the change's transaction."""
    type = ENDS.get(JobState(job.state))
    if type is None:
        return
    data = EventData(job=job.id, state=JobState(job.state), verdict=job.verdict, error=job.error_code)
    wanted = select(WebhookRow).where(WebhookRow.tenant_id == job.tenant_id, WebhookRow.disabled_at.is_(None))
    for webhook in session.scalars(wanted).all():
        if type in webhook.events or webhook.id == job.webhook_id:
            add(session, webhook, type, data)


def add(session: Session, webhook: WebhookRow, type: EventType, data: EventData) -> DeliveryRow:
    row = DeliveryRow(
        tenant_id=webhook.tenant_id,
        webhook_id=webhook.id,
        job_id=data.job,
        type=type,
        body=Event(type=type, timestamp=now(), data=data).model_dump_json(exclude_none=True),
        next_attempt_at=from_now(),
    )
    session.add(row)
    session.flush()
    return row


DUE = (DeliveryRow.state == DeliveryState.pending, DeliveryRow.next_attempt_at <= from_now())


def anything_due(session: Session, busy: Collection[UUID]) -> bool:
    query = select(DeliveryRow.id).where(*DUE, DeliveryRow.webhook_id.not_in(busy))
    return session.scalar(query.limit(1)) is not None


def take(session: Session, busy: Collection[UUID], limit: int) -> list[Parcel]:
    """Up to `limit` deliveries that are due, one for each endpoint, and none for those that are `busy`. Nobody else
    takes them meanwhile."""
    query = select(DeliveryRow.id, DeliveryRow.webhook_id).where(*DUE, DeliveryRow.webhook_id.not_in(busy))
    oldest: dict[UUID, UUID] = {}
    for id, webhook in session.execute(query.order_by(DeliveryRow.next_attempt_at).limit(10 * limit)):
        oldest.setdefault(webhook, id)
    taken = []
    for id in list(oldest.values())[:limit]:
        row = session.scalar(
            update(DeliveryRow)
            .where(DeliveryRow.id == id, *DUE)
            .values(next_attempt_at=from_now(LEASE))
            .returning(DeliveryRow)
        )
        if row is not None:
            taken.append(_parcel(session.get_one(WebhookRow, row.webhook_id), row))
    return taken


def record(session: Session, parcel: Parcel, answer: Answer, seconds: float) -> None:
    """What came of an attempt, and what is to come. An endpoint that is gone (410) gets nothing any more."""
    row = session.get(DeliveryRow, parcel.id, with_for_update=True)
    if row is None or row.state != DeliveryState.pending:  # its endpoint was deleted or disabled meanwhile
        return
    attempt = {"at": now().isoformat(), "seconds": round(seconds, 3), "status": answer.status, "error": answer.error}
    row.log = [*row.log, attempt][-LOGGED:]
    row.tries += 1
    if answer.good:
        row.state, row.next_attempt_at = DeliveryState.delivered, None
    elif answer.status == 410:
        disable(session, session.get_one(WebhookRow, row.webhook_id))
    elif row.tries > len(PAUSES):
        row.state, row.next_attempt_at = DeliveryState.failed, None
    else:
        row.next_attempt_at = from_now(timedelta(seconds=pause(row.tries, answer.retry_after)))


def pause(tries: int, asked: float | None) -> float:
    """Seconds until the next attempt: by the table, give or take a fifth, and no sooner than the endpoint asked for."""
    planned = PAUSES[tries - 1] * random.uniform(0.8, 1.2)  # noqa: S311  no secret
    return max(planned, min(asked or 0.0, LONGEST_PAUSE))


def disable(session: Session, webhook: WebhookRow) -> None:
    """Send nothing there any more, and give up what waits."""
    webhook.disabled_at = now()
    session.flush()
    session.execute(
        update(DeliveryRow)
        .where(DeliveryRow.webhook_id == webhook.id, DeliveryRow.state == DeliveryState.pending)
        .values(state=DeliveryState.failed, next_attempt_at=None)
    )


def ask_again(session: Session, row: DeliveryRow) -> None:
    """Try a delivery once more from the start of the table, under its old id."""
    row.state, row.tries, row.next_attempt_at = DeliveryState.pending, 0, from_now()
    session.flush()


def change_secret(webhook: WebhookRow) -> None:
    """A new secret; the one before signs along for `OVERLAP`, so that the endpoint can be changed in its own time."""
    webhook.former_secret, webhook.former_until = webhook.secret, now() + OVERLAP
    webhook.secret = new_secret()


def _parcel(webhook: WebhookRow, row: DeliveryRow) -> Parcel:
    return Parcel(row.id, webhook.id, webhook.url, row.body, tuple(_secrets(webhook)))


def _secrets(webhook: WebhookRow) -> Iterable[str]:
    yield webhook.secret
    if webhook.former_secret is not None and webhook.former_until is not None and now() < webhook.former_until:
        yield webhook.former_secret
