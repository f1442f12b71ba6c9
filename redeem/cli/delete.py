"""`redeem delete`: have a server forget."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated
from uuid import UUID

import typer

from redeem.cli.connection import Server, connect
from redeem.cli.output import out
from redeem.client import Client


class Kind(StrEnum):
    job = "job"
    model = "model"
    bundle = "bundle"
    upload = "upload"


DELETE = {
    Kind.job: Client.delete_job,
    Kind.model: Client.delete_model,
    Kind.bundle: Client.delete_bundle,
    Kind.upload: Client.delete_upload,
}


def delete(
    kind: Annotated[Kind, typer.Argument(help="What.")],
    ids: Annotated[list[UUID], typer.Argument(metavar="ID...", help="Which.")],
    server: Server = None,
) -> int:
    """Delete jobs that have ended, with all their files, or inputs that nothing names any more."""
    with connect(server) as client:
        for id in ids:
            DELETE[kind](client, id)
            out().print(f"deleted {kind} {id}")
    return 0
