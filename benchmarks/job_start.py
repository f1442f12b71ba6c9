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
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.measuring import EXAMPLE, parser, print_table, spread, write_record
from benchmarks.servers import acting_as
from redeem.client import Client
from redeem.contract import Job, JobState, MethodRequest
from redeem.jobfile import JobFile, read_job_file, send_job
from redeem.local import local_server
from redeem.local.processes import Process
from redeem.local.server import everything

WAYS = {"ready": "worker.app", "unready": "benchmarks.unready_worker"}


def main(words: list[str] | None = None) -> int:
    arguments = parse(words)
    job = small(read_job_file(EXAMPLE / "job.json"), arguments.seed)
    taken: dict[str, list[Job]] = {way: [] for way in WAYS}
    for _ in range(arguments.rounds):
        for way, module in WAYS.items():
            with server(module) as client:
                taken[way] += [ended(client, job, arguments.pause) for _ in range(arguments.jobs)]
    to_claim = {way: [seconds(job, "started_at") for job in jobs] for way, jobs in taken.items()}
    to_end = {way: [seconds(job, "finished_at") for job in jobs] for way, jobs in taken.items()}
    measured = {way: {"to_claim": spread(to_claim[way]), "to_end": spread(to_end[way])} for way in WAYS}
    ratio = spread([plain / ours for ours, plain in zip(to_end["ready"], to_end["unready"], strict=True)])
    sizes = {"rounds": arguments.rounds, "jobs": arguments.jobs, "pause": arguments.pause}
    write_record(arguments, __file__, sizes=sizes, seconds=measured, times_as_fast=ratio)
    print_table(
        ("process", "seconds to the claim", "to the end"),
        *((way, *(told(one) for one in measured[way].values())) for way in WAYS),
        ("times as fast", "", told(ratio)),
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
def server(module: str) -> Iterator[Client]:
    """A server whose worker has the Celery app of this module."""

    def processes(folder: Path, host: str, port: int) -> Sequence[Process]:
        return [
            acting_as(module, process) if process.name.startswith("worker") else process
            for process in everything(folder, host, port)
        ]

    with (
        tempfile.TemporaryDirectory(prefix="redeem-job-start-", ignore_cleanup_errors=True) as folder,
        local_server(Path(folder), processes=processes) as address,
        Client(address.url, address.key) as client,
    ):
        yield client


def ended(client: Client, job: JobFile, pause: float) -> Job:
    time.sleep(pause)
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
