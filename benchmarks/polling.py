"""What it costs to ask for a job: beside the least that FastAPI can do, and with a million jobs beside a hundred.

Both sides are processes of uvicorn. The bare one is a `def` endpoint that returns a constant of the same size; ours
checks the key, reads the job from SQLite (the one with many) and validates what it says. One client asks both over as
many connections as it is told, each for a job of its own and with its next request as soon as it has its answer, in
turns of a few seconds. Lists are asked for one at a time, in turns too, of servers with few and with many jobs, those
of ten tenants in equal parts.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import tempfile
import time
from argparse import ArgumentParser, Namespace
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
from sqlalchemy import insert

from benchmarks.measuring import parser, print_table, spread, write_record
from benchmarks.servers import owner, served
from redeem.access import Scope
from redeem.contract import JobRequest, JobState
from service import database, keys, migrate
from service.settings import Settings
from service.tables import JobRow

TENANTS = 10
CHUNK = 10_000
SOME = 1000
LISTS = {  # as long as what the least server has
    "newest 10": "limit=10",
    "5 from the middle": "limit=5&created_before={middle}",
    "the newest that failed": "limit=1&state=failed",
    "newest 4 that passed": "limit=4&verdict=pass",
}
BARE = """
from fastapi import FastAPI, Response
app = FastAPI()
CONTENT = {content!r}
@app.get("/v1/jobs/{{id}}")
def get_job(id: str) -> Response:
    return Response(CONTENT, media_type="application/json")
"""


@dataclass(frozen=True)
class Seeded:
    """A data folder with jobs, the key of one of its tenants, some of that tenant's jobs, and when the middle one of
    all was created."""

    data: Path
    key: str
    jobs: list[UUID]
    middle: datetime


def main() -> None:
    arguments = options().parse_args()
    with tempfile.TemporaryDirectory(prefix="redeem-polling-") as folder:
        few, many = (seed(Path(folder) / str(count), count) for count in (arguments.few, arguments.many))
        with ours(few) as small, ours(many) as large:
            polling = compare_polling(large, many, Path(folder), arguments)
            lists = compare_lists((small, few), (large, many), arguments)
    print_table(("", "requests/s"), ("ours", polling["ours"]["median"]), ("bare", polling["bare"]["median"]))
    print_table(("ratio", "least", "greatest"), [polling["ratio"][which] for which in ("median", "least", "greatest")])
    rows = [(name, *(figure["median"] for figure in figures.values())) for name, figures in lists.items()]
    print_table(("list", f"{arguments.few:,} jobs, ms", f"{arguments.many:,} jobs, ms", "ratio"), *rows)
    told = {name: getattr(arguments, name) for name in ("connections", "seconds", "rounds", "few", "many", "pages")}
    write_record(arguments, __file__, sizes=told, polling=polling, lists=lists)


def options() -> ArgumentParser:
    made = parser(__doc__, __file__)
    made.add_argument("--connections", type=int, default=64)
    made.add_argument("--seconds", type=float, default=5.0, help="of each turn")
    made.add_argument("--rounds", type=int, default=5)
    made.add_argument("--few", type=int, default=100)
    made.add_argument("--many", type=int, default=1_000_000)
    made.add_argument("--pages", type=int, default=100, help="of each list, in each round")
    return made


# What is asked for ------------------------------------------------------------------------------------------------


def seed(data: Path, count: int) -> Seeded:
    """A new SQLite database with `count` jobs, an hour apart in turns of the tenants, the last of them now."""
    settings = Settings(data=data, database_url="")
    engine = database.open_engine(settings)
    migrate.upgrade(engine)
    with database.sessions(engine).begin() as session:
        owners = [owner(session, f"tenant {number}") for number in range(TENANTS)]
        _, key = keys.create(session, owners[0]["tenant_id"], "benchmark", [Scope.read])
        began = datetime.now(UTC) - timedelta(seconds=count)
        for first in range(0, count, CHUNK):
            numbers = range(first, min(first + CHUNK, count))
            session.execute(insert(JobRow), [_job(owners[n % TENANTS], began, n) for n in numbers])
    engine.dispose()
    middle = count // 2 // TENANTS * TENANTS
    jobs = [_id(began, number) for number in range(0, count, TENANTS)][:SOME]
    return Seeded(data, key, jobs, began + timedelta(seconds=middle))


def _job(owner: dict[str, UUID], began: datetime, number: int) -> dict[str, Any]:
    """One in ten has failed, the others succeeded; of those every other one passed."""
    request = JobRequest(model=owner["model_id"], clean=owner["clean_id"]).model_dump(mode="json")
    at = began + timedelta(seconds=number)
    failed = number // TENANTS % 10 == 0
    return {
        **owner,
        **{name: request[name] for name in ("purifier", "detectors", "policy", "seed", "labels")},
        "id": _id(began, number),
        "state": JobState.failed if failed else JobState.succeeded,
        "verdict": None if failed else "pass" if number // TENANTS % 2 else "fail",
        "error_code": "diverged" if failed else None,
        "timings": {"fetch": 0.1, "load": 0.2, "assess_before": 20.1, "purify": 22.0, "assess_after": 20.3},
        "attempts": 1,
        "created_at": at,
        "started_at": at,
        "finished_at": at,
        "dispatched_at": at,
    }


def _id(began: datetime, number: int) -> UUID:
    """A UUIDv7 of the second that the job was created in."""
    milliseconds = int((began + timedelta(seconds=number)).timestamp() * 1000)
    return UUID(int=milliseconds << 80 | 7 << 76 | 2 << 62 | number)


# Who is asked -----------------------------------------------------------------------------------------------------


def ours(seeded: Seeded) -> contextlib.AbstractContextManager[str]:
    environment = {"REDEEM_DATA": str(seeded.data), "REDEEM_DATABASE_URL": "", "REDEEM_BROKER_URL": ""}
    return served(["service.app:create_app", "--factory"], environment, seeded.data)


def bare(content: bytes, folder: Path) -> contextlib.AbstractContextManager[str]:
    folder.joinpath("bare.py").write_text(BARE.format(content=content))
    return served(["bare:app", "--app-dir", str(folder)], {}, folder)


# Asking -----------------------------------------------------------------------------------------------------------


def compare_polling(url: str, seeded: Seeded, folder: Path, arguments: Namespace) -> dict[str, Any]:
    paths, headers = [f"/v1/jobs/{job}" for job in seeded.jobs], {"Authorization": f"Bearer {seeded.key}"}
    content = httpx.get(url + paths[0], headers=headers, trust_env=False).raise_for_status().content
    with bare(content, folder) as other:
        for address in (url, other):
            rate(address, paths, headers, arguments.connections, min(1.0, arguments.seconds))
        turns = [
            [rate(address, paths, headers, arguments.connections, arguments.seconds) for address in (url, other)]
            for _ in range(arguments.rounds)
        ]
    return {
        "bytes": len(content),
        "ours": spread([turn[0] for turn in turns], 0),
        "bare": spread([turn[1] for turn in turns], 0),
        "ratio": spread([turn[0] / turn[1] for turn in turns]),
    }


def rate(url: str, paths: list[str], headers: dict[str, str], connections: int, seconds: float) -> float:
    """Good answers a second."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    port = int(url.rsplit(":", 1)[1])

    async def ask(path: str, deadline: float) -> int:
        request = f"GET {path} HTTP/1.1\r\nHost: x\r\n{lines}\r\n"
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        answers = 0
        while time.monotonic() < deadline:
            writer.write(request.encode())
            head = await reader.readuntil(b"\r\n\r\n")
            if not head.startswith(b"HTTP/1.1 200"):
                raise SystemExit(f"{url} refused: {head[:200]!r}")
            await reader.readexactly(int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0]))
            answers += 1
        writer.close()
        return answers

    async def all_of_them() -> float:
        began = time.monotonic()
        answers = await asyncio.gather(*(ask(paths[n % len(paths)], began + seconds) for n in range(connections)))
        return sum(answers) / (time.monotonic() - began)

    return asyncio.run(all_of_them())


def compare_lists(few: tuple[str, Seeded], many: tuple[str, Seeded], arguments: Namespace) -> dict[str, Any]:
    """Milliseconds of a page; of each round the median."""
    measured: dict[str, Any] = {}
    for name, query in LISTS.items():
        turns = [[_page(*side, query, arguments.pages) for side in (few, many)] for _ in range(arguments.rounds)]
        measured[name] = {
            "few": spread([turn[0] for turn in turns]),
            "many": spread([turn[1] for turn in turns]),
            "ratio": spread([turn[1] / turn[0] for turn in turns]),
        }
    return measured


def _page(url: str, seeded: Seeded, query: str, times: int) -> float:
    target = f"{url}/v1/jobs?{query.format(middle=seeded.middle.strftime('%Y-%m-%dT%H:%M:%SZ'))}"
    taken = []
    with httpx.Client(headers={"Authorization": f"Bearer {seeded.key}"}, trust_env=False, timeout=60) as http:
        for _ in range(times + 1):
            began = time.perf_counter()
            answer = http.get(target)
            taken.append(1000 * (time.perf_counter() - began))
            if answer.status_code != 200 or not json.loads(answer.content)["items"]:
                raise SystemExit(f"{target} gave nothing: {answer.text[:200]}")
    return spread(taken[1:], 4)["median"]


if __name__ == "__main__":
    main()
