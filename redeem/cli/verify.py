"""`redeem verify`: is this file what a server attested?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from redeem.attestation import PublicKey, Statement
from redeem.cli.connection import AsJson, Server, connect
from redeem.cli.output import EXIT_FAIL, out, print_error, print_json
from redeem.contract import Outcome
from redeem.errors import NotGenuine
from redeem.verification import check_subject, check_suspect, check_verdict, read_keys
from redeem.verification import verify as verified


def verify(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The purified weights, or another file of the job.")],
    provenance: Annotated[Path, typer.Option(help="The job's provenance.intoto.jsonl.")],
    key: Annotated[
        Path | None,
        typer.Option(help="Trusted public keys: one as PEM, or what GET /v1/keys answered. Then no server is asked."),
    ] = None,
    suspect: Annotated[Path | None, typer.Option(help="Also demand that this file is what was purified.")] = None,
    verdict: Annotated[Outcome | None, typer.Option(help="Also demand this verdict.")] = None,
    server: Server = None,
    as_json: AsJson = False,
) -> int:
    """Check a file against its signed provenance. Exit code 0: genuine; 1: not genuine; 2: it could not be checked.

    Without --key the keys are those of the server, and trusted because its address is.
    """
    if key is not None and server is not None:
        raise typer.BadParameter("give --key or --server, not both")
    try:
        statement = verified(provenance, _trusted(key, server))
        check_subject(statement, file)
        if suspect is not None:
            check_suspect(statement, suspect)
        if verdict is not None:
            check_verdict(statement, verdict)
    except NotGenuine as error:
        print_error(error, as_json)
        return EXIT_FAIL
    _print(file, statement, as_json)
    return 0


def _trusted(key: Path | None, server: str | None) -> list[PublicKey]:
    if key is not None:
        return read_keys(key)
    with connect(server) as client:
        return client.keys().keys


def _print(file: Path, statement: Statement, as_json: bool) -> None:
    if as_json:
        print_json(statement)
        return
    predicate = statement.predicate
    run, parameters = predicate.run_details, predicate.build_definition.external_parameters
    out().print(f"{file} is genuine")
    out().print(f"  {parameters.purifier.name}, seed {parameters.seed}, on {parameters.architecture.name}")
    out().print(f"  suspect {statement.dependency('suspect')}")
    out().print(f"  job {run.metadata.invocation_id}, ended {run.metadata.finished_on:%Y-%m-%d %H:%M:%S} UTC")
    out().print(f"  by {run.builder.id}, redeem {run.builder.version.get('redeem', '-')}")
    out().print(f"  verdict {predicate.verdict.outcome}: {'; '.join(predicate.verdict.reasons)}")
