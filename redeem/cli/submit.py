"""`redeem submit`: a job from a job file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from redeem.cli.connection import AsJson, Server, connect
from redeem.cli.output import out, print_json
from redeem.cli.progress import uploading
from redeem.jobfile import check_files, read_job_file, send_job


def submit(
    job_file: Annotated[Path, typer.Argument(metavar="JOB.JSON", help="The job; paths in it are relative to it.")],
    server: Server = None,
    as_json: AsJson = False,
) -> int:
    """Upload the files of a job file and submit it. Prints the job's id."""
    job_file_content = read_job_file(job_file)
    check_files(job_file_content)
    with connect(server) as client, uploading(job_file_content.files) as advance:
        job = send_job(client, job_file_content, advance)
    if as_json:
        print_json(job)
    else:
        out().print(str(job.id))
    return 0
