"""The wire of webhooks: endpoints that are told of the ends of jobs, and what was delivered to them.

A delivery follows the Standard Webhooks specification: the headers `webhook-id` (the same whenever it is tried again),
`webhook-timestamp` and `webhook-signature`, and as its body an Event.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Literal, get_args
from uuid import UUID

from pydantic import Field, StringConstraints

from redeem.contract import JobState, Outcome
from redeem.wire import Request, Resource

Url = Annotated[str, StringConstraints(pattern=r"^https?://[!-~]+$", max_length=2048)]


class EventType(StrEnum):
    job_succeeded = "job.succeeded"
    job_failed = "job.failed"
    job_cancelled = "job.cancelled"
    test = "webhook.test"


JobEnd = Literal[EventType.job_succeeded, EventType.job_failed, EventType.job_cancelled]


class WebhookRequest(Request):
    """An endpoint: where to post, and which ends of jobs. With no `events` it is told only of jobs that name it."""

    url: Url
    events: Annotated[list[JobEnd], Field(max_length=8)] = list(get_args(JobEnd))


class Webhook(Resource):
    id: UUID
    url: str
    events: list[JobEnd]
    disabled_at: datetime | None
    """Since when nothing is sent there: it answered 410, or the owner said so."""
    created_at: datetime


class WebhookSecret(Webhook):
    secret: str
    """What its signatures are checked with: `whsec_` and base64. Told when it is made, and never again."""


class EventData(Resource):
    """What a job's end was, and no more: the rest is there to be fetched, by who may."""

    job: UUID | None = None
    state: JobState | None = None
    verdict: Outcome | None = None
    error: str | None = None
    """The code of a failed job's error."""


class Event(Resource):
    type: EventType
    timestamp: datetime
    data: EventData


class DeliveryState(StrEnum):
    pending = "pending"
    delivered = "delivered"
    failed = "failed"


class Attempt(Resource):
    at: datetime
    seconds: float
    status: int | None
    error: str | None


class Delivery(Resource):
    id: UUID
    """`webhook-id` is `msg_` and this."""
    type: EventType
    job: UUID | None
    state: DeliveryState
    log: list[Attempt]
    """The last attempts, oldest first."""
    next_attempt_at: datetime | None
    created_at: datetime
