"""Endpoints that are told of the ends of jobs, and what was delivered to them."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Body, Query, Request, Response
from sqlalchemy.orm import Session

from redeem.contract import Page
from redeem.webhooks import Delivery, DeliveryState, EventData, EventType, Webhook, WebhookRequest, WebhookSecret
from service import audit, examples, quotas, records
from service.context import Context, Here
from service.errors import NotFound, WebhookDisabled, WebhookForbidden, WebhookQuotaExceeded
from service.idempotency import IdempotencyKey, once
from service.paging import Listing, link_next
from service.responses import CREATING, refusals
from service.scopes import JOBS_WRITE, READ
from service.tables import DeliveryRow, WebhookRow
from service.webhooks import outbox
from service.webhooks.guard import Forbidden, check_url

router = APIRouter(tags=["webhooks"])


class DeliveryListing(Listing):
    state: DeliveryState | None = None


@router.post(
    "/webhooks",
    dependencies=JOBS_WRITE,
    status_code=201,
    responses=refusals(*CREATING, WebhookForbidden, WebhookQuotaExceeded),
)
def create_webhook(
    request: Annotated[WebhookRequest, Body(openapi_examples=examples.WEBHOOK)],
    response: Response,
    here: Here,
    idempotency_key: IdempotencyKey = None,
) -> WebhookSecret:
    """Have an endpoint told of the ends of jobs. The answer has the secret of its signatures, told only this once."""
    try:
        check_url(request.url, here.settings.webhook_networks)
    except Forbidden as error:
        raise WebhookForbidden(f"The server does not post to that URL: {error}.") from error
    with here.sessions.begin() as session:
        row = once(session, idempotency_key, request, WebhookRow, lambda: _add(session, here, request))
        webhook = WebhookSecret.model_validate(row, from_attributes=True)
    response.headers["Location"] = f"/v1/webhooks/{webhook.id}"
    return webhook


@router.get("/webhooks", dependencies=READ)
def list_webhooks(
    listing: Annotated[Listing, Query()], request: Request, response: Response, here: Here
) -> Page[Webhook]:
    """The newest first."""
    with here.readers() as session:
        rows, next_cursor = records.page(session, WebhookRow, listing)
    link_next(request, response, next_cursor)
    return Page(items=[Webhook.model_validate(row, from_attributes=True) for row in rows], next_cursor=next_cursor)


@router.get("/webhooks/{id}", dependencies=READ, responses=refusals(NotFound))
def get_webhook(id: UUID, here: Here) -> Webhook:
    with here.readers() as session:
        return Webhook.model_validate(records.find(session, WebhookRow, id), from_attributes=True)


@router.delete("/webhooks/{id}", dependencies=JOBS_WRITE, status_code=204, responses=refusals(NotFound))
def delete_webhook(id: UUID, here: Here) -> None:
    """What waits for it is not delivered any more."""
    with here.sessions.begin() as session:
        session.delete(records.find(session, WebhookRow, id))
        audit.note(session, "webhook.deleted", id)


@router.post("/webhooks/{id}/rotate", dependencies=JOBS_WRITE, responses=refusals(NotFound))
def rotate_secret(id: UUID, here: Here) -> WebhookSecret:
    """A new secret. For a day the former one signs as well, so that the endpoint can be changed in its own time."""
    with here.sessions.begin() as session:
        row = records.find(session, WebhookRow, id)
        outbox.change_secret(row)
        audit.note(session, "webhook.rotated", id)
        return WebhookSecret.model_validate(row, from_attributes=True)


@router.post("/webhooks/{id}/enable", dependencies=JOBS_WRITE, responses=refusals(NotFound))
def enable_webhook(id: UUID, here: Here) -> Webhook:
    """Send again to an endpoint that had answered 410."""
    with here.sessions.begin() as session:
        row = records.find(session, WebhookRow, id)
        row.disabled_at = None
        audit.note(session, "webhook.enabled", id)
        return Webhook.model_validate(row, from_attributes=True)


@router.post(
    "/webhooks/{id}/test", dependencies=JOBS_WRITE, status_code=202, responses=refusals(NotFound, WebhookDisabled)
)
def test_webhook(id: UUID, here: Here) -> Delivery:
    """Send an event of type `webhook.test`."""
    with here.sessions.begin() as session:
        return _delivery(outbox.add(session, _enabled(session, id), EventType.test, EventData()))


@router.get("/webhooks/{id}/deliveries", dependencies=READ, responses=refusals(NotFound))
def list_deliveries(
    id: UUID, listing: Annotated[DeliveryListing, Query()], request: Request, response: Response, here: Here
) -> Page[Delivery]:
    """The newest first, each with its last attempts."""
    conditions = [DeliveryRow.webhook_id == id]
    if listing.state is not None:
        conditions.append(DeliveryRow.state == listing.state)
    with here.readers() as session:
        records.find(session, WebhookRow, id)
        rows, next_cursor = records.page(session, DeliveryRow, listing, *conditions)
    link_next(request, response, next_cursor)
    return Page(items=[_delivery(row) for row in rows], next_cursor=next_cursor)


@router.post(
    "/webhooks/{id}/deliveries/{delivery}/replay",
    dependencies=JOBS_WRITE,
    status_code=202,
    responses=refusals(NotFound, WebhookDisabled),
)
def replay_delivery(id: UUID, delivery: UUID, here: Here) -> Delivery:
    """Deliver once more, whatever became of it, under the same `webhook-id`."""
    with here.sessions.begin() as session:
        webhook = _enabled(session, id)
        row = records.find(session, DeliveryRow, delivery)
        if row.webhook_id != webhook.id:
            raise NotFound(f"Webhook {id} has no delivery {delivery}.")
        outbox.ask_again(session, row)
        return _delivery(row)


def _enabled(session: Session, id: UUID) -> WebhookRow:
    row = records.find(session, WebhookRow, id)
    if row.disabled_at is not None:
        raise WebhookDisabled(f"Webhook {id} has been disabled since {row.disabled_at:%Y-%m-%d %H:%M:%S} UTC.")
    return row


def _add(session: Session, here: Context, request: WebhookRequest) -> WebhookRow:
    quotas.check_webhooks(session, here.settings)
    row = WebhookRow(url=request.url, events=sorted(set(request.events)), secret=outbox.new_secret())
    return records.add(session, row)


def _delivery(row: DeliveryRow) -> Delivery:
    fields = {name: getattr(row, name) for name in Delivery.model_fields if hasattr(row, name)}
    return Delivery(**fields, job=row.job_id)
