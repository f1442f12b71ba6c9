"""An API and a worker on servers that the test brings: what hosts share."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from redeem.client import Client
from redeem.local import local_server
from redeem.local.processes import Process
from redeem.local.server import Address, api, worker
from redeem.settings import child_environment
from service import database, migrate
from service.settings import Settings


@contextlib.contextmanager
def api_and_worker(data: Path, **shared: str) -> Iterator[tuple[Address, Client]]:
    """One of each, with these variables; the database is brought to the newest migration first."""
    engine = database.open_engine(Settings(database_url=shared["REDEEM_DATABASE_URL"]))
    migrate.upgrade(engine)
    engine.dispose()
    environment = child_environment(REDEEM_DATA=str(data), **shared)

    def processes(_: Path, host: str, port: int) -> Sequence[Process]:
        return [api(environment, host, port), worker(environment)]

    with local_server(data, processes=processes) as server, Client(server.url, server.key) as client:
        yield server, client
