"""Brokers that are killed while a job runs and others wait, and come back with what they had, or with nothing."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import httpx
import pytest
import redis
from safetensors.torch import load_file

from redeem.contract import JobState
from redeem.local.network import free_port
from redeem.local.valkey import find_valkey
from tests.e2e.processes import wait
from tests.e2e.sending import sent
from tests.e2e.serving import api_and_worker
from tests.rabbitmq import find_rabbitmq, rabbit_server


class Broker(Protocol):
    @property
    def url(self) -> str: ...
    def start(self) -> None: ...
    def kill(self) -> None: ...
    def forget(self) -> None: ...


@dataclass
class Valkey:
    """One that writes down what it has, and may be killed."""

    folder: Path
    port: int
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        binary = find_valkey()
        assert binary is not None
        kept = ("--dir", str(self.folder), "--save", "", "--appendonly", "yes", "--appendfsync", "always")
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen([binary, "--port", str(self.port), *kept], stdout=log, stderr=log)
        wait(self._answers)

    def _answers(self) -> bool:
        with redis.Redis.from_url(self.url) as client:
            try:
                return bool(client.ping())
            except redis.ConnectionError:
                return False

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait(20)

    def forget(self) -> None:
        shutil.rmtree(self.folder / "appendonlydir")


@pytest.fixture
def broker(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """One that no other test has."""
    folder = tmp_path_factory.mktemp("broker")
    if request.param == "rabbitmq":
        binary = find_rabbitmq()
        if binary is None:
            pytest.skip("no RabbitMQ here: install the package rabbitmq-server")
        with rabbit_server(binary, folder) as server:
            yield server
    else:
        valkey = Valkey(folder, free_port())
        valkey.start()
        yield valkey
        valkey.kill()


@pytest.mark.parametrize(
    ("broker", "forgets", "waiting"),
    [
        ("rabbitmq", True, 1),
        pytest.param("rabbitmq", False, 4, marks=pytest.mark.slow),
        pytest.param("valkey", True, 4, marks=pytest.mark.slow),
        pytest.param("valkey", False, 4, marks=pytest.mark.slow),
    ],
    indirect=["broker"],
)
def test_jobs_outlive_a_broker_that_is_killed(
    folder: Path, postgres_url: str, broker: Broker, forgets: bool, waiting: int
) -> None:
    """While one runs and so many wait; and one more is submitted meanwhile."""
    shared = {"REDEEM_DATABASE_URL": postgres_url, "REDEEM_BROKER_URL": broker.url}
    with api_and_worker(folder / "data", **shared) as (server, client):
        request = sent(client, folder, epochs=1).model_copy(update={"detectors": []})

        def health() -> str:
            return str(httpx.get(f"{server.url}/readyz").json()["status"])

        jobs = [client.submit(request) for _ in range(1 + waiting)]
        wait(lambda: client.get(jobs[0].id).state is JobState.running)
        broker.kill()
        jobs.append(client.submit(request))
        assert health() == "degraded"
        if forgets:
            broker.forget()
        broker.start()
        wait(lambda: health() == "ok")
        ended = [client.wait(job.id, timeout=300) for job in jobs]
        assert [(job.state, job.attempts, job.error) for job in ended] == [(JobState.succeeded, 1, None)] * len(jobs)
        for job in jobs:
            states = [event.state for event in client.events(job.id) if event.type == "state"]
            assert states == [JobState.queued, JobState.running, JobState.succeeded]
            weights = client.download_weights(job.id, folder / f"{job.id}.safetensors")
            assert load_file(weights).keys() == load_file(folder / "suspect.safetensors").keys()
