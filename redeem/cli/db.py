"""`redeem db …`: the database of a server, administered where it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from redeem.cli.connection import AsJson
from redeem.cli.output import EXIT_ERROR, out, print_json
from redeem.local.admin import administer

app = typer.Typer(
    help="Administer the database: that of REDEEM_DATABASE_URL, or the one in the data folder.", no_args_is_help=True
)

Data = Annotated[Path | None, typer.Option(help="The server's folder; by default REDEEM_DATA, or redeem-data.")]


@app.command()
def upgrade(data: Data = None, as_json: AsJson = False) -> int:
    """Bring the database to the newest migration. Doing it again does no harm."""
    answer = administer("db upgrade", data)
    print_json(answer) if as_json else out().print(f"{answer['database']} is at {answer['revision']}, the newest")
    return 0


@app.command()
def check(data: Data = None, as_json: AsJson = False) -> int:
    """Tell whether the database is at the newest migration. Exit code 0: it is; 2: it is not."""
    answer = administer("db check", data)
    newest = answer["revision"] == answer["newest"]
    if as_json:
        print_json(answer)
    elif newest:
        out().print(f"{answer['database']} is at {answer['revision']}, the newest")
    else:
        out().print(f"{answer['database']} is at {answer['revision'] or 'no migration'}, not at {answer['newest']}")
        out().print("`redeem db upgrade` brings it there.")
    return 0 if newest else EXIT_ERROR


@app.command()
def gc(data: Data = None, as_json: AsJson = False) -> int:
    """Delete what is older than the retention, and bytes that nothing names. A server does it by itself every hour."""
    answer = administer("db gc", data)
    print_json(answer) if as_json else out().print(f"{answer['removed']} blobs removed")
    return 0
