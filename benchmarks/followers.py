"""What those who follow jobs cost the others: 200 event streams and 200 who wait on one API, beside none.

One client asks for a job, for a list and for the catalogue, one request after the other, first alone and then while the
followers are there. Each of them follows a job of its own, and in the end all jobs are cancelled and every follower has
to hear of it.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx

from benchmarks.measuring import answers, parser, print_table, write_record
from benchmarks.memory import memory_of
from benchmarks.servers import owner, served_by
from redeem.access import Scope
from redeem.contract import JobRequest, JobState
from service import database, keys, migrate, records
from service.settings import Settings
from service.tenancy import Caller, bound

MIB = 2**20


def main() -> None:
    arguments = options().parse_args()
    with tempfile.TemporaryDirectory(prefix="redeem-followers-") as folder:
        measured = measure(Path(folder), arguments)
    rows = [(name, *measured[name].values()) for name in ("alone", "followed")]
    print_table(("", "p50 ms", "p99 ms", "requests a second"), *rows)
    print_table(("followers", "memory MiB"), (arguments.streams + arguments.waiting, measured["growth_mib"]))
    sizes = {name: getattr(arguments, name) for name in ("streams", "waiting", "seconds")}
    write_record(arguments, __file__, sizes=sizes, measured=measured)


def options() -> ArgumentParser:
    made = parser(__doc__, __file__)
    made.add_argument("--streams", type=int, default=200)
    made.add_argument("--waiting", type=int, default=200)
    made.add_argument("--seconds", type=float, default=10.0, help="of each measurement")
    return made


def measure(data: Path, arguments: Namespace) -> dict[str, Any]:
    count = arguments.streams + arguments.waiting
    key, jobs = seed(data, count)
    environment = {"REDEEM_DATA": str(data), "REDEEM_DATABASE_URL": "", "REDEEM_BROKER_URL": ""}
    with served_by(["service.app:create_app", "--factory"], environment, data) as (url, process):
        return asyncio.run(_beside_followers(url, key, process.pid, jobs, arguments))


def seed(data: Path, count: int) -> tuple[str, list[UUID]]:
    """A key, and that many queued jobs."""
    engine = database.open_engine(Settings(data=data, database_url=""))
    migrate.upgrade(engine)
    sessions = database.sessions(engine)
    with sessions.begin() as session:
        named = owner(session, "benchmark")
        _, key = keys.create(session, named["tenant_id"], "benchmark", [Scope.read, Scope.jobs_write])
    request = JobRequest(model=named["model_id"], clean=named["clean_id"])
    with bound(sessions, Caller(named["tenant_id"], "benchmark", frozenset(Scope))).begin() as session:
        jobs = [records.submit(session, request).id for _ in range(count)]
    engine.dispose()
    return key, jobs


async def _beside_followers(url: str, key: str, pid: int, jobs: list[UUID], arguments: Namespace) -> dict[str, Any]:
    paths = [f"/v1/jobs/{jobs[0]}", "/v1/jobs?limit=20", "/v1/purifiers"]
    headers, unlimited = {"Authorization": f"Bearer {key}"}, httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=url, headers=headers, limits=unlimited, timeout=120, trust_env=False) as http:
        await _asked(http, paths, min(1.0, arguments.seconds))
        alone = await _asked(http, paths, arguments.seconds)
        before = memory_of(pid, "VmHWM")
        followers = [
            asyncio.create_task(_stream(http, job) if n < arguments.streams else _wait(http, job))
            for n, job in enumerate(jobs)
        ]
        await asyncio.sleep(min(5.0, arguments.seconds))  # all are there
        followed = await _asked(http, paths, arguments.seconds)
        for job in jobs:
            (await http.post(f"/v1/jobs/{job}/cancel")).raise_for_status()
        heard = sum([await follower for follower in followers])
    if heard != len(jobs):
        raise SystemExit(f"of {len(jobs)} followers {heard} heard the end")
    return {"alone": alone, "followed": followed, "growth_mib": round((memory_of(pid, "VmHWM") - before) / MIB, 1)}


async def _asked(http: httpx.AsyncClient, paths: list[str], seconds: float) -> dict[str, float]:
    taken, began = [], time.perf_counter()
    while time.perf_counter() < began + seconds:
        sent = time.perf_counter()
        (await http.get(paths[len(taken) % len(paths)])).raise_for_status()
        taken.append(time.perf_counter() - sent)
    return answers(taken, seconds)


async def _stream(http: httpx.AsyncClient, job: UUID) -> bool:
    """Whether the stream told of the job's end."""
    text = (await http.get(f"/v1/jobs/{job}/events")).raise_for_status().text
    return f'"state":"{JobState.cancelled}"' in text


async def _wait(http: httpx.AsyncClient, job: UUID) -> bool:
    """Ask for the job until it has ended, 60 seconds at a time."""
    while True:
        told = (await http.get(f"/v1/jobs/{job}?wait=60")).raise_for_status().json()
        if JobState(told["state"]).terminal:
            return True


if __name__ == "__main__":
    main()
