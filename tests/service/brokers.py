"""What waits in a broker, and how to empty it: of each kind that carries jobs."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import redis
from amqp import NotFound
from kombu import Connection

from service import queue


@dataclass(frozen=True)
class Broker:
    url: str

    @property
    def port(self) -> int:
        return urlsplit(self.url).port or 0

    def on_port(self, port: int) -> str:
        """Its address by another way."""
        return self.url.replace(f":{self.port}", f":{port}")

    def waiting(self, device_class: str | None = None) -> list[dict[str, Any]]:
        """Header and body of the messages that wait for a worker, oldest first. They go on waiting, but a dispatcher
        that counts just now takes them for lost: use `queue.waiting` where it does."""
        look = _in_rabbitmq if self.url.startswith("amqp") else _in_valkey
        return look(self.url, queue.queue_of(device_class))

    def jobs(self, device_class: str | None = None) -> list[UUID]:
        messages = self.waiting(device_class)
        assert {message["headers"]["task"] for message in messages} <= {"sanitize"}
        return [UUID(message["body"][0][0]) for message in messages]

    def forget(self, *device_classes: str | None) -> None:
        """What waits, of all classes if none is named."""
        names = [queue.queue_of(one) for one in device_classes or (None, "small", "h100")]
        if self.url.startswith("amqp"):
            with Connection(self.url) as connection:
                for name in names:
                    connection.default_channel.queue_delete(name)
        else:
            with redis.Redis.from_url(self.url) as client:
                client.delete(*names) if device_classes else client.flushall()


def _in_valkey(url: str, name: str) -> list[dict[str, Any]]:
    with redis.Redis.from_url(url) as client:
        messages = [json.loads(message) for message in reversed(client.lrange(name, 0, -1))]
    return [message | {"body": json.loads(base64.b64decode(message["body"]))} for message in messages]


def _in_rabbitmq(url: str, name: str) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = []
    with Connection(url) as connection:
        channel = connection.channel()
        try:
            while got := channel.basic_get(name):
                described = {"headers": got.application_headers, "content-type": got.content_type}
                messages.append(described | {"body": json.loads(got.body)})
        except NotFound:
            return []
        channel.close()  # and all of them go back to where they were
    return messages
