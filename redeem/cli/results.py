"""`redeem download · report`: take what a job made."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from redeem.cli.connection import AsJson, JobId, Server, connect
from redeem.cli.output import out, print_json, print_report


def download(
    job: JobId,
    to: Annotated[
        Path, typer.Option("--out", help="File for the purified weights; one in .onnx gets the purified graph.")
    ] = Path("purified.safetensors"),
    provenance: Annotated[Path | None, typer.Option(help="Also write there what the server attests, signed.")] = None,
    server: Server = None,
    as_json: AsJson = False,
) -> int:
    """Download the purified weights, and check them against the server's hash."""
    with connect(server) as client:
        path = client.download_weights(job, to)
        if provenance:
            client.download_provenance(job, provenance)
    if as_json:
        print_json({"path": str(path), "size": path.stat().st_size})
    else:
        out().print(f"{path}  {path.stat().st_size / 2**20:.1f} MiB, hash checked")
    return 0


def report(
    job: JobId,
    to: Annotated[Path | None, typer.Option("--out", help="Also write the report there, as JSON.")] = None,
    html: Annotated[Path | None, typer.Option("--html", help="Also write the report there, as HTML.")] = None,
    server: Server = None,
    as_json: AsJson = False,
) -> int:
    """Print a job's report: before, after, verdict."""
    with connect(server) as client:
        content = client.report(job)
        if to:
            client.download_report(job, to)
        if html:
            client.download_report(job, html, "text/html")
    print_json(content) if as_json else print_report(content)
    return 0
