"""A job from its files to its verdict, on whatever server: what `purify` and `demo` share."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from redeem.cli.connection import connect
from redeem.cli.output import err
from redeem.cli.progress import follow, uploading
from redeem.client import Client
from redeem.contract import Job, JobState
from redeem.errors import RedeemError, Unreachable
from redeem.jobfile import JobFile, send_job
from redeem.local import local_server
from redeem.settings import read_settings


@contextmanager
def client_for_one_run(server: str | None) -> Iterator[Client]:
    """The server asked for, or one of its own that lives as long as the block."""
    if server or read_settings().server:
        with connect(server) as client:
            yield client
    else:
        with own_server() as client:
            yield client


@contextmanager
def own_server() -> Iterator[Client]:
    """A server in a folder that vanishes with it."""
    err().print("starting a server for this run …")
    with (
        tempfile.TemporaryDirectory(prefix="redeem-", ignore_cleanup_errors=True) as folder,
        local_server(Path(folder)) as address,
        Client(address.url, address.key) as client,
    ):
        try:
            yield client
        except Unreachable:
            if address.ended.done():
                address.ended.result()  # the reason
            raise


def run_job(client: Client, job: JobFile) -> Job:
    """Upload, submit, follow. Raises RedeemError, with the job's own code and hint, unless it succeeded."""
    with uploading(job.files) as advance:
        submitted = send_job(client, job, advance)
    err().print(f"job {submitted.id}")
    ended = follow(client, submitted.id)
    if ended.error is not None:
        raise RedeemError(ended.error.code, ended.error.detail, ended.error.hint)
    if ended.state is not JobState.succeeded:
        raise RedeemError(f"job_{ended.state}", f"Job {ended.id} was {ended.state}.", "Submit it again.")
    return ended
