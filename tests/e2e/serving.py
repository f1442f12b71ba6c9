"""APIs and workers on servers that the test brings: what hosts share."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from redeem.client import Client
from redeem.local import local_server
from redeem.local.network import free_port, local_url
from redeem.local.processes import Process, Running, start, stop
from redeem.local.server import Address, api, worker
from redeem.settings import DEFAULT_HOST, child_environment
from service import database, migrate
from service.settings import Settings
from tests.e2e.processes import wait


@contextlib.contextmanager
def api_and_worker(data: Path, **shared: str) -> Iterator[tuple[Address, Client]]:
    """One of each, with these variables; the database is brought to the newest migration first."""
    _migrate(shared["REDEEM_DATABASE_URL"])
    environment = child_environment(REDEEM_DATA=str(data), **shared)

    def processes(_: Path, host: str, port: int) -> Sequence[Process]:
        return [api(environment, host, port), worker(environment)]

    with local_server(data, processes=processes) as server, Client(server.url, server.key) as client:
        yield server, client


def _migrate(url: str) -> None:
    engine = database.open_engine(Settings(database_url=url))
    migrate.upgrade(engine)
    engine.dispose()


@dataclass
class Crew:
    """Processes that nobody starts again but the test, by their names; they write to `folder`/logs."""

    folder: Path
    apis: list[Process]
    clients: list[Client] = field(default_factory=list)
    """One of each API."""
    running: dict[str, Running] = field(default_factory=dict)

    def start(self, process: Process) -> None:
        """And wait until it is ready."""
        self.running[process.name] = running = start(process, self.folder)
        wait(lambda: process.ready(running.output()), process.ready_within)

    def restart(self, process: Process) -> None:
        """Tell it to stop; raises where its grace is not enough."""
        self.running[process.name].popen.terminate()
        self.running[process.name].popen.wait(process.grace)
        self.start(process)


@contextlib.contextmanager
def two_apis(folder: Path, environment: dict[str, str]) -> Iterator[Crew]:
    """Two APIs on one database, brought to the newest migration first, and room for workers beside them."""
    _migrate(environment["REDEEM_DATABASE_URL"])
    folder.joinpath("logs").mkdir()
    ports = [free_port() for _ in range(2)]
    apis = [replace(api(environment, DEFAULT_HOST, port), name=f"api-{port}") for port in ports]
    crew = Crew(folder, apis)
    with contextlib.ExitStack() as connected:
        try:
            for each in apis:
                crew.start(each)
            key = Path(environment["REDEEM_DATA"], "key").read_text().strip()  # the first API made it
            crew.clients = [connected.enter_context(Client(local_url(DEFAULT_HOST, port), key)) for port in ports]
            yield crew
        finally:
            for running in crew.running.values():
                stop(running, 0)
