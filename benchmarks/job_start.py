"""How long a job waits for its process, where that has imported torch before it has the job, and where not.

    python benchmarks/job_start.py

A small job of the example, on two servers of their own with real processes: on one the worker as it is, on the other
`unready_worker.py`. They take turns, each with nothing else to do, and a job comes when its server has been idle for a
while, as on a server that is not full. (On a full one the next job's process starts when the last one ended, and
nothing is gained.) About nine minutes on two CPU cores.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.measuring import EXAMPLE, parser, print_table, spread, write_record
from benchmarks.memory import memory_of
from benchmarks.servers import with_worker
from redeem.client import Client
from redeem.contract import Job, JobState, MethodRequest
from redeem.jobfile import JobFile, read_job_file, send_job
from redeem.local import local_server

WAYS = {"ready": "worker.app", "unready": "benchmarks.unready_worker"}
SPAWNED = b"spawn_main"
"""What the command line of a job's process has, and no other of a server."""
FIELDS = {"own": "RssAnon", "files": "RssFile"}
MIB = 2**20


def main(words: list[str] | None = None) -> int:
    arguments = parse(words)
    job = small(read_job_file(EXAMPLE / "job.json"), arguments.seed)
    taken: dict[str, list[Job]] = {way: [] for way in WAYS}
    waiting: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    for _ in range(arguments.rounds):
        for way, module in WAYS.items():
            with server(module) as (client, folder):
                for _ in range(arguments.jobs):
                    time.sleep(arguments.pause)
                    waiting[way].append(held_while_waiting(folder))
                    taken[way].append(ended(client, job))
    to_claim = {way: [seconds(job, "started_at") for job in jobs] for way, jobs in taken.items()}
    to_end = {way: [seconds(job, "finished_at") for job in jobs] for way, jobs in taken.items()}
    measured = {way: {"to_claim": spread(to_claim[way]), "to_end": spread(to_end[way])} for way in WAYS}
    ratio = spread([plain / ours for ours, plain in zip(to_end["ready"], to_end["unready"], strict=True)])
    sizes = {"rounds": arguments.rounds, "jobs": arguments.jobs, "pause": arguments.pause}
    held = {way: {name: spread([one[name] for one in waiting[way]], 0) for name in FIELDS} for way in WAYS}
    write_record(arguments, __file__, sizes=sizes, seconds=measured, times_as_fast=ratio, waiting_mib=held)
    print_table(
        ("process", "seconds to the claim", "to the end", "own MiB while it waits", "of files"),
        *((way, *(told(one) for one in (measured[way] | held[way]).values())) for way in WAYS),
        ("times as fast", "", told(ratio), "", ""),
    )
    return 0


def parse(words: list[str] | None) -> argparse.Namespace:
    options = parser(__doc__, __file__)
    options.add_argument("--rounds", type=int, default=2, help="turns of each way")
    options.add_argument("--jobs", type=int, default=3, help="one after the other, in a turn")
    options.add_argument("--pause", type=float, default=20.0, help="seconds that the server is idle before each")
    return options.parse_args(words)


def small(job: JobFile, seed: int) -> JobFile:
    """One epoch, and no detector."""
    sage = MethodRequest(name="sage", options={"epochs": 1})
    return job.model_copy(update={"purifier": sage, "detectors": [], "seed": seed})


@contextlib.contextmanager
def server(module: str) -> Iterator[tuple[Client, Path]]:
    """A server whose worker has the Celery app of this module, and its folder."""
    with (
        tempfile.TemporaryDirectory(prefix="redeem-job-start-", ignore_cleanup_errors=True) as folder,
        local_server(Path(folder), processes=with_worker(module)) as address,
        Client(address.url, address.key) as client,
    ):
        yield client, Path(folder)


def held_while_waiting(folder: Path) -> dict[str, float]:
    """MiB of the process that waits for a job on the server of this folder: its own, and of files that it maps."""
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # not ours, or it went meanwhile
            ours = process.joinpath("cwd").readlink().is_relative_to(folder)
            if ours and SPAWNED in process.joinpath("cmdline").read_bytes():
                return {name: memory_of(process.name, field) / MIB for name, field in FIELDS.items()}
    raise SystemExit("no process waits for a job")


def ended(client: Client, job: JobFile) -> Job:
    end = client.wait(send_job(client, job).id)
    if end.state is not JobState.succeeded:
        raise SystemExit(f"the job {end.state}: {end.error}")
    return end


def told(one: dict[str, float]) -> str:
    return f"{one['median']} ({one['least']} to {one['greatest']})"


def seconds(job: Job, until: str) -> float:
    """From its submission."""
    return float((getattr(job, until) - job.created_at).total_seconds())


if __name__ == "__main__":
    sys.exit(main())
