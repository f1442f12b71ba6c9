"""`redeem submit`: a job from a job file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated
from uuid import UUID

import typer
from pydantic import ValidationError

from redeem.cli.connection import AsJson, Server, connect
from redeem.cli.output import err, out, print_json
from redeem.cli.progress import uploading
from redeem.client import Client
from redeem.errors import BadInput
from redeem.jobfile import check_files, read_job_file, send_job
from redeem.webhooks import WebhookRequest


def submit(
    job_file: Annotated[Path, typer.Argument(metavar="JOB.JSON", help="The job; paths in it are relative to it.")],
    webhook: Annotated[
        str | None,
        typer.Option(metavar="URL", help="An endpoint that is told of the job's end; made known to the server if new."),
    ] = None,
    server: Server = None,
    as_json: AsJson = False,
) -> int:
    """Upload the files of a job file and submit it. Prints the job's id."""
    job_file_content = read_job_file(job_file)
    check_files(job_file_content)
    with connect(server) as client:
        told = _endpoint(client, webhook) if webhook else None
        with uploading(job_file_content.files) as advance:
            job = send_job(client, job_file_content, advance, told)
    if as_json:
        print_json(job)
    else:
        out().print(str(job.id))
    return 0


def _endpoint(client: Client, url: str) -> UUID:
    """The webhook of that URL; one that only jobs which name it are told to, where there was none."""
    for known in client.webhooks():
        if known.url == url and known.disabled_at is None:
            return known.id
    try:
        made = client.create_webhook(WebhookRequest(url=url, events=[]))
    except ValidationError as error:
        raise BadInput(
            "bad_webhook", f"{url!r} is no address of a webhook.", "Give one like https://host/path."
        ) from error
    err().print(f"webhook {made.id}; check its signatures with {made.secret} (not shown again)")
    return made.id
