"""`redeem jobs · status · watch · cancel · retry`: see and steer what was submitted."""

from __future__ import annotations

from typing import Annotated

import typer

from redeem.cli.connection import AsJson, JobId, Server, connect
from redeem.cli.output import describe, exit_code, out, print_job, print_json
from redeem.cli.progress import follow


def jobs(
    limit: Annotated[int, typer.Option(min=1, help="How many, newest first.")] = 20,
    server: Server = None,
    as_json: AsJson = False,
) -> int:
    """List jobs."""
    with connect(server) as client:
        listed = list(client.jobs(limit))
    if as_json:
        print_json([job.model_dump(mode="json") for job in listed])
    for job in [] if as_json else listed:
        out().print(f"{job.id}  {job.created_at:%Y-%m-%d %H:%M}  {job.purifier.name:<12}  {describe(job)}")
    return 0


def status(job: JobId, server: Server = None, as_json: AsJson = False) -> int:
    """Show a job as it is now."""
    with connect(server) as client:
        current = client.get(job)
    print_json(current) if as_json else print_job(current)
    return 0


def watch(job: JobId, server: Server = None, as_json: AsJson = False) -> int:
    """Follow a job to its end. The exit code is its verdict's; --json prints every event as a line, then the job."""
    with connect(server) as client:
        if as_json:
            for event in client.events(job):
                print_json(event)
            last = client.get(job)
        else:
            last = follow(client, job)
    print_json(last) if as_json else print_job(last)
    return exit_code(last)


def cancel(job: JobId, server: Server = None, as_json: AsJson = False) -> int:
    """Ask a job to stop."""
    with connect(server) as client:
        asked = client.cancel(job)
    print_json(asked) if as_json else print_job(asked)
    return 0


def retry(job: JobId, server: Server = None, as_json: AsJson = False) -> int:
    """Try a job again that failed or was cancelled."""
    with connect(server) as client:
        queued = client.retry(job)
    print_json(queued) if as_json else print_job(queued)
    return 0
