"""A job as a file: what `redeem submit job.json` reads. Paths in it are relative to the file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated
from uuid import UUID

from pydantic import Field, ValidationError

from redeem.client import Client
from redeem.contract import (
    Architecture,
    BundleRole,
    Job,
    JobOptions,
    JobRequest,
    Preprocessing,
)
from redeem.errors import BadInput
from redeem.transfer import Advance, ignore
from redeem.wire import Request


class ModelFile(Request):
    file: Path
    architecture: Architecture
    preprocessing: Preprocessing


class CleanFile(Request):
    file: Path


class TriggeredFile(Request):
    """Stamped images under their true labels, and the label that the trigger should bring about."""

    file: Path
    target: Annotated[int, Field(ge=0)] | list[Annotated[int, Field(ge=0)]]


class JobFile(JobOptions):
    model: ModelFile
    clean: CleanFile
    triggered: TriggeredFile | None = None

    @property
    def files(self) -> list[Path]:
        return [part.file for part in (self.model, self.clean, self.triggered) if part is not None]


def read_job_file(path: Path) -> JobFile:
    """Raises BadInput with every mistake in it."""
    try:
        job = JobFile.model_validate_json(path.read_bytes())
    except OSError as error:
        raise BadInput(
            "file_unreadable", f"{path} cannot be read: {error.strerror}.", "Check the path and its permissions."
        ) from error
    except ValidationError as error:
        mistakes = (f"{'.'.join(map(str, mistake['loc'])) or 'file'}: {mistake['msg']}" for mistake in error.errors())
        raise BadInput(
            "bad_job_file",
            f"{path} is no valid job file: {'; '.join(mistakes)}.",
            "examples/cifar10-badnets/job.json shows one.",
        ) from error
    for part in (job.model, job.clean, job.triggered):
        if part is not None:
            part.file = path.parent / part.file
    return job


def check_files(job: JobFile) -> None:
    """Raise BadInput for a file that is missing, before anything is sent."""
    if missing := [str(path) for path in job.files if not path.is_file()]:
        raise BadInput("file_missing", f"There is no file {', '.join(missing)}.", "Check the paths of the job.")


def send_job(client: Client, job: JobFile, advance: Advance = ignore, webhook: UUID | None = None) -> Job:
    """Upload its files and submit it. `webhook` is told of its end."""
    model = client.upload_model(job.model.file, job.model.architecture, job.model.preprocessing, advance=advance)
    clean = client.upload_bundle(job.clean.file, BundleRole.clean, advance=advance)
    triggered = job.triggered and client.upload_bundle(
        job.triggered.file, BundleRole.triggered, job.triggered.target, advance=advance
    )
    return client.submit(
        JobRequest(
            model=model.id,
            clean=clean.id,
            triggered=triggered.id if triggered else None,
            webhook=webhook,
            **job.model_dump(include=set(JobOptions.model_fields)),
        )
    )
