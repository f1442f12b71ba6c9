"""Webhooks from a job's end to the endpoint, over real connections."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import delete, select, update
from standardwebhooks import Webhook, WebhookVerificationError

from redeem.contract import JobState
from service.settings import Settings
from service.tables import DeliveryRow, JobRow, WebhookRow, now
from service.webhooks import delivery, outbox
from tests.service.running import Service, problem, serving, wait_until
from tests.service.webhooks.sink import Sink, listening, status


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(delivery, "INTERVAL", 0.05)
        with serving(
            Settings(data=tmp_path_factory.mktemp("data"), webhook_allow="127.0.0.1/32, 10.0.0.0/8")
        ) as running:
            yield running


@pytest.fixture(autouse=True)
def no_webhooks(service: Service) -> None:
    with service.parts.sessions.begin() as session:
        session.execute(delete(WebhookRow))


def endpoint(service: Service, url: str, **more: Any) -> dict[str, Any]:
    made: dict[str, Any] = service.post("/v1/webhooks", {"url": url, **more}, 201)
    return made


def deliveries(service: Service, webhook: dict[str, Any], **query: str) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = service.http.get(f"/v1/webhooks/{webhook['id']}/deliveries", params=query).json()[
        "items"
    ]
    return items


def ended(service: Service, state: str = "succeeded", **more: Any) -> UUID:
    job = service.job(**more)
    service.change(job, state=state, verdict="pass" if state == "succeeded" else None)
    return job


def make_due(service: Service) -> None:
    with service.parts.sessions.begin() as session:
        session.execute(
            update(DeliveryRow).where(DeliveryRow.state == "pending").values(next_attempt_at=now() - timedelta(hours=1))
        )


def test_the_end_of_a_job_is_told_once_signed_and_in_few_words(service: Service) -> None:
    with listening(status(204)) as sink:
        webhook = endpoint(service, sink.url)
        job = ended(service)
        wait_until(lambda: sink.got)
        headers, body = sink.got[0]
        told = Webhook(webhook["secret"]).verify(body, headers)
        assert (told["type"], told["data"]) == (
            "job.succeeded",
            {"job": str(job), "state": "succeeded", "verdict": "pass"},
        )
        assert told["timestamp"]
        with pytest.raises(WebhookVerificationError):
            Webhook(webhook["secret"]).verify(body.replace("pass", "fail"), headers)
        wait_until(lambda: deliveries(service, webhook)[0]["state"] == "delivered")
        told_of = deliveries(service, webhook)
        assert [attempt["status"] for attempt in told_of[0]["log"]] == [204]
        assert headers["webhook-id"] == f"msg_{told_of[0]['id']}"
        time.sleep(0.3)
        assert len(sink.got) == len(told_of) == 1


def test_every_kind_of_end_is_told_to_who_asked_for_it(service: Service) -> None:
    with listening(status(200)) as every, listening(status(200)) as failures, listening(status(200)) as named:
        endpoint(service, every.url)
        endpoint(service, failures.url, events=["job.failed"])
        only = endpoint(service, named.url, events=[])
        failed, cancelled = service.job(), service.job(webhook=only["id"])
        assert service.http.get(f"/v1/jobs/{cancelled}").json()["webhook"] == only["id"]
        service.change(failed, state="failed", error_code="diverged", error_detail="It did.", error_hint="Again.")
        service.post(f"/v1/jobs/{cancelled}/cancel", None, 202)
        wait_until(lambda: len(every.got) == 2 and failures.got and named.got)
        time.sleep(0.2)

    def told(sink: Sink) -> set[tuple[str, str]]:
        return {(json.loads(body)["type"], json.loads(body)["data"]["job"]) for _, body in sink.got}

    assert told(every) == {("job.failed", str(failed)), ("job.cancelled", str(cancelled))}
    assert told(failures) == {("job.failed", str(failed))}
    assert told(named) == {("job.cancelled", str(cancelled))}
    assert json.loads(failures.got[0][1])["data"]["error"] == "diverged"


def test_nothing_is_told_of_a_change_that_was_taken_back(service: Service) -> None:
    webhook = endpoint(service, "http://10.0.0.1/")
    job = service.job()
    with service.parts.sessions() as session:
        row = session.get_one(JobRow, job)
        row.state = JobState.succeeded
        outbox.tell_of_end(session, row)
        session.flush()
        assert session.scalars(select(DeliveryRow)).all()
        session.rollback()
    assert deliveries(service, webhook) == []


def test_what_fails_is_tried_again_under_its_old_id_with_a_new_time(service: Service) -> None:
    with listening(status(500), status(302, Location="http://127.0.0.1:1/"), status(200)) as sink:
        webhook = endpoint(service, sink.url)
        ended(service)
        for tries in (1, 2):
            wait_until(lambda tries=tries: len(deliveries(service, webhook)[0]["log"]) == tries)
            assert deliveries(service, webhook)[0]["state"] == "pending"
            time.sleep(0.15)
            assert len(sink.got) == tries  # not before its time
            make_due(service)
        wait_until(lambda: deliveries(service, webhook)[0]["state"] == "delivered")
        assert [attempt["status"] for attempt in deliveries(service, webhook)[0]["log"]] == [500, 302, 200]
    assert len({headers["webhook-id"] for headers, _ in sink.got}) == 1
    assert len({body for _, body in sink.got}) == 1
    for headers, body in sink.got:
        Webhook(webhook["secret"]).verify(body, headers)


def test_the_pauses_grow_by_the_table_with_jitter_and_heed_who_asks_for_more() -> None:
    for tries, planned in enumerate(outbox.PAUSES, 1):
        pauses = {outbox.pause(tries, None) for _ in range(200)}
        assert 0.8 * planned <= min(pauses) < max(pauses) <= 1.2 * planned
        assert len(pauses) > 100
    assert 70 < sum(outbox.PAUSES) / 3600 < 80
    assert outbox.pause(1, 600.0) == 600.0
    assert outbox.pause(9, 600.0) > 600.0
    assert outbox.pause(1, 1e9) == 24 * 3600


def test_retry_after_is_heeded(service: Service) -> None:
    with listening(status(429, Retry_After="7200")) as sink:
        webhook = endpoint(service, sink.url)
        ended(service)
        wait_until(lambda: deliveries(service, webhook)[0]["log"])
        with service.parts.readers() as session:
            row = session.scalars(select(DeliveryRow)).one()
            assert row.next_attempt_at is not None
            assert timedelta(hours=1.9) < row.next_attempt_at - now() < timedelta(hours=2.1)


def test_after_the_last_attempt_it_is_given_up_and_can_be_asked_for_again(service: Service) -> None:
    with listening(status(500)) as sink:
        webhook = endpoint(service, sink.url)
        ended(service)
        for tries in range(1, len(outbox.PAUSES) + 2):
            wait_until(lambda tries=tries: len(deliveries(service, webhook)[0]["log"]) == tries)
            make_due(service)
        told = deliveries(service, webhook)[0]
        assert (told["state"], told["next_attempt_at"]) == ("failed", None)
        assert deliveries(service, webhook, state="pending") == []
        sink.answers[:] = [status(200)]
        again = service.post(f"/v1/webhooks/{webhook['id']}/deliveries/{told['id']}/replay", None, 202)
        assert again["state"] == "pending"
        wait_until(lambda: deliveries(service, webhook)[0]["state"] == "delivered")
    assert len({headers["webhook-id"] for headers, _ in sink.got}) == 1
    assert len(sink.got) == len(outbox.PAUSES) + 2


def test_an_endpoint_that_is_gone_gets_nothing_until_it_is_enabled(service: Service) -> None:
    with listening(status(410)) as sink:
        webhook = endpoint(service, sink.url)
        path = f"/v1/webhooks/{webhook['id']}"
        ended(service)
        wait_until(lambda: service.http.get(path).json()["disabled_at"])
        assert deliveries(service, webhook)[0]["state"] == "failed"
        ended(service)
        assert len(deliveries(service, webhook)) == 1
        problem(service.http.post(f"{path}/test"), 409, "webhook_disabled")
        replay = f"{path}/deliveries/{deliveries(service, webhook)[0]['id']}/replay"
        problem(service.http.post(replay), 409, "webhook_disabled")
        sink.answers[:] = [status(200)]
        assert service.post(f"{path}/enable", None, 200)["disabled_at"] is None
        service.post(f"{path}/test", None, 202)
        wait_until(lambda: len(sink.got) == 2)
        assert json.loads(sink.got[1][1])["type"] == "webhook.test"


def test_a_changed_secret_leaves_no_moment_without_a_good_signature(service: Service) -> None:
    with listening(status(200)) as sink:
        webhook = endpoint(service, sink.url)
        path = f"/v1/webhooks/{webhook['id']}"
        changed = service.post(f"{path}/rotate", None, 200)
        assert changed["secret"] != webhook["secret"]
        service.post(f"{path}/test", None, 202)
        wait_until(lambda: sink.got)
        headers, body = sink.got[0]
        for secret in (webhook["secret"], changed["secret"]):
            Webhook(secret).verify(body, headers)
        with service.parts.sessions.begin() as session:
            session.execute(update(WebhookRow).values(former_until=now() - timedelta(seconds=1)))
        service.post(f"{path}/test", None, 202)
        wait_until(lambda: len(sink.got) == 2)
        headers, body = sink.got[1]
        Webhook(changed["secret"]).verify(body, headers)
        with pytest.raises(WebhookVerificationError):
            Webhook(webhook["secret"]).verify(body, headers)


def test_a_dead_endpoint_holds_up_nobody_else(service: Service) -> None:
    over = threading.Event()

    with listening(lambda handler: over.wait(30)) as dead, listening(status(200)) as live:
        endpoint(service, dead.url)
        endpoint(service, live.url)
        for _ in range(3):
            ended(service)
        wait_until(lambda: len(live.got) == 3)
        assert len(dead.got) == 1  # one at a time
        over.set()


def test_a_private_address_is_refused_when_made_and_when_it_turns_out_so(service: Service) -> None:
    for url in ("https://127.0.0.2/", "http://192.168.0.1/", "https://[::1]/", "https://u:p@example.com/"):
        problem(service.http.post("/v1/webhooks", json={"url": url}), 422, "webhook_forbidden")
    with listening(status(200), host="127.0.0.2") as sink:
        webhook = endpoint(service, "http://10.0.0.1/")
        with service.parts.sessions.begin() as session:
            session.execute(update(WebhookRow).values(url=sink.url))  # as if its name led there
        service.post(f"/v1/webhooks/{webhook['id']}/test", None, 202)
        wait_until(lambda: deliveries(service, webhook)[0]["log"])
    assert deliveries(service, webhook)[0]["log"][0]["error"].startswith("forbidden")
    assert sink.got == []


def test_secrets_are_told_once(service: Service) -> None:
    headers = {"Idempotency-Key": "one"}
    body = {"url": "https://example.com/hook", "events": []}
    made = [service.http.post("/v1/webhooks", json=body, headers=headers).json() for _ in range(2)]
    assert made[0] == made[1]
    assert made[0]["secret"].startswith("whsec_")
    for path in ("/v1/webhooks", f"/v1/webhooks/{made[0]['id']}"):
        assert made[0]["secret"] not in service.http.get(path).text


def test_a_deleted_endpoint_is_gone_and_its_jobs_stay(service: Service) -> None:
    webhook = endpoint(service, "http://10.0.0.1/", events=[])
    job = ended(service, webhook=webhook["id"])
    path = f"/v1/webhooks/{webhook['id']}"
    assert len(deliveries(service, webhook)) == 1
    assert service.http.delete(path).status_code == 204
    for method, more in (("GET", ""), ("DELETE", ""), ("POST", "/test"), ("GET", "/deliveries"), ("POST", "/rotate")):
        problem(service.http.request(method, path + more), 404, "not_found")
    assert service.http.get(f"/v1/jobs/{job}").json()["webhook"] is None
    answer = service.http.post(
        "/v1/jobs", json={"model": service.model(), "clean": service.bundle(), "webhook": webhook["id"]}
    )
    problem(answer, 422, "unknown_reference")


def test_webhooks_are_their_tenants_own(service: Service) -> None:
    with listening(status(200)) as mine, service.as_tenant("webhooks of another") as other:
        webhook = endpoint(service, mine.url)
        job = ended(other)
        assert deliveries(service, webhook) == []
        for method, more in (
            ("GET", ""),
            ("DELETE", ""),
            ("POST", "/test"),
            ("GET", "/deliveries"),
            ("POST", "/rotate"),
        ):
            problem(other.http.request(method, f"/v1/webhooks/{webhook['id']}{more}"), 404, "not_found")
        answer = other.http.post(
            "/v1/jobs", json={"model": other.model(), "clean": other.bundle(), "webhook": webhook["id"]}
        )
        problem(answer, 422, "unknown_reference")
        theirs = endpoint(other, "http://10.0.0.1/")
        other.post(f"/v1/webhooks/{theirs['id']}/test", None, 202)
        stranger = deliveries(other, theirs)[0]["id"]
        problem(service.http.post(f"/v1/webhooks/{webhook['id']}/deliveries/{stranger}/replay"), 404, "not_found")
    assert mine.got == []
    assert job


def test_what_a_killed_sender_had_taken_is_tried_again_after_its_lease(service: Service) -> None:
    webhook = endpoint(service, "http://10.0.0.1/")
    with service.parts.sessions.begin() as session:
        row = session.get_one(WebhookRow, UUID(webhook["id"]))
        outbox.add(session, row, outbox.EventType.test, outbox.EventData())
        assert len(outbox.take(session, {uuid4()}, 8)) == 1
        assert outbox.take(session, {uuid4()}, 8) == []  # somebody has it
        session.execute(update(DeliveryRow).values(next_attempt_at=now() - timedelta(seconds=1)))
        assert outbox.take(session, {row.id}, 8) == []  # one at a time for an endpoint
        assert len(outbox.take(session, {uuid4()}, 8)) == 1


def test_a_network_that_is_none_is_told_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="webhook_allow"):
        Settings(data=tmp_path, webhook_allow="10.0.0.0/33")
