"""`redeem signing …`: the key that a server signs provenance with, administered where it runs."""

from __future__ import annotations

import typer

from redeem.cli.connection import AsJson
from redeem.cli.db import Data
from redeem.cli.output import out, print_json
from redeem.local.admin import administer

app = typer.Typer(no_args_is_help=True)


@app.callback()
def signing() -> None:
    """Administer the key that provenance is signed with."""  # without it typer makes one command no group


@app.command()
def rotate(data: Data = None, as_json: AsJson = False) -> int:
    """Replace this host's signing key. What the old one signed stays good, and GET /v1/keys tells both."""
    answer = administer("signing rotate", data)
    print_json(answer) if as_json else out().print(f"signs with {answer['kid']} from now on")
    return 0
