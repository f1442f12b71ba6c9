"""The way to the workers: Celery, and the only file of the service that names it. Only a job's id crosses.

The database is the truth and the lease in the job's row the only recovery, so a message is a hint: it is acknowledged
as soon as a worker has it, and may come twice, late or never.
"""

from __future__ import annotations

from typing import TypeAlias, cast
from uuid import UUID

from celery import Celery
from kombu.exceptions import KombuError

from service.settings import Settings

QUEUE = "sanitize"
TASK = "sanitize"

Queue: TypeAlias = Celery
"""What the rest of the service calls it."""


class BrokerUnavailable(Exception):
    """The broker did not take or answer a message in time."""


def celery_app(settings: Settings) -> Celery:
    """What service and worker agree on. Nothing connects before the first message."""
    app = Celery("redeem", set_as_current=False)
    app.conf.update(
        broker_url=settings.broker_url or None,
        broker_connection_retry_on_startup=True,
        broker_transport_options={"socket_timeout": 30, "socket_connect_timeout": 5, "socket_keepalive": True},
        task_default_queue=QUEUE,
        task_acks_late=False,
        task_ignore_result=True,
        task_serializer="json",
        accept_content=["json"],
        worker_pool_start_method="spawn",  # CUDA does not survive a fork
        worker_concurrency=1,
        worker_prefetch_multiplier=1,
        worker_max_tasks_per_child=1,  # every job gets a fresh process, and gives all its memory back
        worker_proc_alive_timeout=120,  # a spawned child imports torch first
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,  # what we log is JSON, a line each, and stays so
    )
    return app


def publisher(settings: Settings) -> Queue:
    """The sending side: it would rather give up within seconds than hang, since the dispatcher tries again."""
    app = celery_app(settings)
    app.conf.update(
        broker_connection_timeout=2,
        broker_transport_options={"socket_timeout": 2, "socket_connect_timeout": 2},
    )
    return app


def send(queue: Queue, job: UUID) -> None:
    """Put a job's id on the queue, in about four seconds at most, or raise BrokerUnavailable."""
    _require_broker(queue)
    try:
        queue.send_task(
            TASK,
            args=[str(job)],
            queue=QUEUE,
            ignore_result=True,
            retry_policy={"max_retries": 1, "interval_start": 0.1, "interval_max": 0.1},
        )
    except (KombuError, OSError) as error:
        raise BrokerUnavailable(f"the broker took no message: {error}") from error


def waiting(queue: Queue) -> int:
    """How many messages no worker has taken yet. Raises BrokerUnavailable."""
    _require_broker(queue)
    with queue.connection_for_write() as connection:
        try:
            connection.ensure_connection(max_retries=1, interval_start=0, timeout=2)
            declared = queue.amqp.queues[QUEUE](connection.default_channel).queue_declare()
        except (KombuError, OSError, *connection.connection_errors, *connection.channel_errors) as error:
            raise BrokerUnavailable(f"the broker does not answer: {error}") from error
    return cast(int, declared.message_count)


def _require_broker(queue: Queue) -> None:
    if not queue.conf.broker_url:
        raise BrokerUnavailable("no broker is set; REDEEM_BROKER_URL names one")
