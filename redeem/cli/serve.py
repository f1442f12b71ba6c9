"""`redeem serve`: everything on this machine, until it is told to stop."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from redeem.cli.connection import AsJson
from redeem.cli.output import err, out, print_json
from redeem.local import local_server
from redeem.settings import DEFAULT_HOST, DEFAULT_PORT, read_settings


def serve(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = DEFAULT_HOST,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = DEFAULT_PORT,
    data: Annotated[
        Path | None, typer.Option(help="Folder of everything; by default REDEEM_DATA, or redeem-data.")
    ] = None,
    as_json: AsJson = False,
) -> int:
    """Run the API, a worker and their Valkey on this machine. Ctrl-C stops them all."""
    err().print("starting …")
    try:
        with local_server(data or read_settings().data, port, host) as address:
            if as_json:
                print_json({"url": address.url, "key_file": str(address.key_file)})
            else:
                out().print(f"Redeem serves on {address.url} (docs: {address.url}/docs, API key: {address.key_file})")
            address.ended.result()
    except KeyboardInterrupt:
        err().print("stopped")
    return 0
