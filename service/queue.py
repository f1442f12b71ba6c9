"""The way to the workers: Celery, and the only file of the service that names it. Only a job's id crosses.

The database is the truth and the lease in the job's row the only recovery, so a message is a hint: it is acknowledged
as soon as a worker has it, and may come twice, late or never. Of a broker we want a durable queue and nothing else, so
RabbitMQ, Redis and Valkey serve alike.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Event, Lock
from typing import Any, cast
from urllib.parse import urlsplit
from uuid import UUID

from celery import Celery
from celery.bootsteps import StartStopStep
from celery.signals import worker_process_init
from celery.worker import state
from kombu.common import QoS
from kombu.exceptions import KombuError

from service.settings import Settings

QUEUE = "sanitize"
TASK = "sanitize"
ANSWER = 2
"""Seconds that the sending side waits for any one answer of the broker."""
NOT_FOUND = "404"
"""AMQP's, of a queue that nothing was ever sent to, or that the broker forgot."""
FULL = "the broker takes no messages: it is short of memory or disk"
process_started = worker_process_init
"""Celery's signal, in the process of a worker's next job, which then waits for it."""
TLS = {"amqps": {"server_hostname": None}, "rediss": {"ssl_cert_reqs": ssl.CERT_REQUIRED}}
"""What has kombu look at a Redis's certificate, and whether a RabbitMQ's is for the host of its address: by itself it
takes any for the one, and one for any host for the other."""


class BrokerUnavailable(Exception):
    """The broker did not take or answer a message in time."""


@dataclass(frozen=True)
class Queue:
    """The sending side."""

    app: Celery
    connection: Any
    """kombu's Connection, which connects when it is used."""
    turn: Lock
    """One thread at a time uses it."""
    full: Event
    """RabbitMQ told us to send nothing for now."""

    def close(self) -> None:
        self.connection.collect()
        self.app.close()


def queue_of(device_class: str | None) -> str:
    return QUEUE if device_class is None else f"{QUEUE}.{device_class}"


def celery_app(settings: Settings) -> Celery:
    """What service and worker agree on. Nothing connects before the first message. A worker takes jobs of every class
    that it knows, and those of none; with Celery's `--queues` of some."""
    app = Celery("redeem", set_as_current=False)
    queues = [queue_of(one) for one in (None, *settings.device_class_names)]
    redis = {"socket_timeout": 30, "socket_connect_timeout": 5, "socket_keepalive": True}
    app.conf.update(
        broker_url=settings.broker_url or None,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,  # however long it is away
        broker_channel_error_retry=True,  # a channel that RabbitMQ closes must not take the running job with it
        broker_heartbeat=30,  # RabbitMQ's: a worker misses it a minute after it vanished
        broker_transport_options={} if _is_amqp(settings) else redis,
        broker_use_ssl=TLS.get(_scheme(settings), False),
        task_default_queue=QUEUE,
        task_queues={name: {"exchange": name, "routing_key": name} for name in queues},
        task_acks_late=False,
        task_ignore_result=True,
        task_serializer="json",
        accept_content=["json"],
        worker_pool_start_method="spawn",  # CUDA does not survive a fork
        worker_concurrency=1,
        worker_prefetch_multiplier=1,
        worker_disable_prefetch=not _is_amqp(settings),  # one job in hand; for RabbitMQ it is OneInHand that sees to it
        worker_max_tasks_per_child=1,  # every job gets a fresh process, and gives all its memory back
        worker_proc_alive_timeout=120,  # a spawned child imports torch first
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,  # what we log is JSON, a line each, and stays so
    )
    app.steps["consumer"].add(OneInHand)
    return app


class OneInHand(StartStopStep):  # type: ignore[misc]  # Celery has no types
    """A worker on RabbitMQ takes no message while it has a job.

    Celery asks for the next one as soon as it has acknowledged the last, and holds it while the job runs: no idle
    worker gets it, and after half an hour RabbitMQ takes it back (`consumer_timeout`) and closes the channel.

    One that serves several device classes can get a job of each at the same moment, since RabbitMQ counts by queue. The
    second is sent again after a minute (`dispatcher.PATIENCE`), for whoever is free.
    """

    requires = ("celery.worker.consumer.tasks:Tasks",)
    turn: Callable[[], None] | None = None

    def start(self, worker: Any) -> None:
        if worker.hub is None or worker.connection.transport.driver_type != "amqp":
            return
        consumer, consume = worker.task_consumer, worker.task_consumer.consume
        if worker.qos_global:  # the channel's limit, which quorum queues do not know; they know the consumer's
            consumer.channel.basic_qos(0, 0, True)
        consumer.qos(prefetch_count=1)
        worker.qos, worker.qos_global = QoS(consumer.qos, 1), False  # type: ignore[no-untyped-call]

        def take_turn() -> None:
            free = len(state.reserved_requests) < worker.pool.num_processes
            taking = any(consumer.consuming_from(each.name) for each in consumer.queues)
            if free and not taking:
                consume()
            elif taking and not free:
                consumer.cancel()

        consumer.consume = self.turn = take_turn
        worker.hub.on_tick.add(take_turn)

    def stop(self, worker: Any) -> None:
        if self.turn is not None:
            worker.hub.on_tick.discard(self.turn)


def publisher(settings: Settings) -> Queue:
    """The sending side: it would rather give up within seconds than hang, since the dispatcher tries again."""
    app, full = celery_app(settings), Event()
    redis = {"socket_timeout": ANSWER, "socket_connect_timeout": ANSWER}
    app.conf.update(
        broker_connection_timeout=ANSWER,
        broker_heartbeat=0,  # between two jobs there is nobody to send them
        broker_transport_options=_amqp_options(full) if _is_amqp(settings) else redis,
    )
    return Queue(app, app.connection_for_write(), Lock(), full)


def _is_amqp(settings: Settings) -> bool:
    return _scheme(settings) in ("amqp", "amqps", "pyamqp")


def _scheme(settings: Settings) -> str:
    return urlsplit(settings.broker_url).scheme


def _amqp_options(full: Event) -> dict[str, Any]:
    """A message counts as sent when RabbitMQ says that it keeps it; and no answer is waited for without end."""

    def opened(connection: Any) -> None:
        connection.transport.sock.settimeout(ANSWER)

    def blocked(reason: str) -> None:
        full.set()
        raise BrokerUnavailable(FULL)

    return {"confirm_publish": True, "on_open": opened, "on_blocked": blocked, "on_unblocked": full.clear}


def send(queue: Queue, job: UUID, device_class: str | None = None) -> None:
    """Put a job's id on its class's queue, in about four seconds at most, or raise BrokerUnavailable."""
    with _answering(queue), queue.turn:
        kept = queue.connection.connected
        try:
            _publish(queue, job, queue_of(device_class))
        except BrokerUnavailable:
            raise
        except Exception:
            if not kept:
                raise
            _publish(queue, job, queue_of(device_class))  # a connection that was idle may have been dead for hours


def _publish(queue: Queue, job: UUID, name: str) -> None:
    try:
        if not queue.connection.connected:
            queue.full.clear()
        queue.connection.ensure_connection(max_retries=0)
        _await_room(queue)
        queue.connection.declared_entities.clear()  # the queue may be gone: RabbitMQ drops what is for none
        producer = queue.app.amqp.Producer(queue.connection)
        arguments = {"args": [str(job)], "queue": name, "ignore_result": True}
        queue.app.send_task(TASK, **arguments, producer=producer, retry=False)
    except BrokerUnavailable:  # a full broker tells on this connection when it has room again
        raise
    except Exception:
        queue.connection.collect()
        raise


def waiting(queue: Queue, device_class: str | None = None) -> int:
    """How many messages of a class no worker has taken yet. Raises BrokerUnavailable."""
    with _answering(queue), queue.app.connection_for_write() as connection:
        if queue.full.is_set():
            with queue.turn:
                _await_room(queue)
        connection.ensure_connection(max_retries=0)
        try:
            # Passive: it makes no queue, and asks nothing of the one that is there.
            declared = connection.default_channel.queue_declare(queue_of(device_class), passive=True)
        except connection.channel_errors as error:
            if str(getattr(error, "reply_code", "")) == NOT_FOUND:  # a number or text
                return 0
            raise
    return cast(int, declared.message_count)


def _await_room(queue: Queue) -> None:
    """Hear whether a full broker has room again: to try it would each time leave another message on the way.
    Raises BrokerUnavailable."""
    try:
        while queue.full.is_set():
            queue.connection.drain_events(timeout=0.01)
    except TimeoutError:
        raise BrokerUnavailable(FULL) from None
    except OSError:  # with the connection goes what we knew
        queue.full.clear()
        raise


@contextmanager
def _answering(queue: Queue) -> Iterator[None]:
    """Whatever a broker does instead of answering in time is BrokerUnavailable."""
    if not queue.app.conf.broker_url:
        raise BrokerUnavailable("no broker is set; REDEEM_BROKER_URL names one")
    errors = queue.connection.connection_errors + queue.connection.channel_errors
    try:
        yield
    except (KombuError, OSError, *errors) as error:
        raise BrokerUnavailable(f"the broker does not answer: {error}") from error
