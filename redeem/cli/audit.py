"""`redeem audit …`: the log of who did what on a server, read where it runs."""

from __future__ import annotations

from typing import Annotated

import typer

from redeem.cli.connection import AsJson
from redeem.cli.db import Data
from redeem.cli.output import EXIT_FAIL, out, print_json
from redeem.local.admin import administer

app = typer.Typer(help="Check and export the audit log of a server, where it runs.", no_args_is_help=True)


@app.command()
def verify(
    head: Annotated[
        str | None, typer.Option(help="A head that was told before: finds out whether rows were cut off since.")
    ] = None,
    data: Data = None,
    as_json: AsJson = False,
) -> int:
    """Tell whether a row was changed, removed or swapped, and which. Exit code 0: none; 1: some."""
    answer = administer("audit verify", data, head=head)
    if as_json:
        print_json(answer)
    else:
        for fault in answer["faults"]:
            out().print(fault)
        state = "is broken" if answer["faults"] else "is whole"
        out().print(f"the chain of {answer['rows']} rows {state}; its head is {answer['head']}")
    return EXIT_FAIL if answer["faults"] else 0


@app.command()
def export(
    after: Annotated[int, typer.Option(min=0, help="Only rows with a greater `seq`.")] = 0,
    data: Data = None,
) -> int:
    """Print the rows as JSON lines, oldest first."""
    for row in administer("audit export", data, after=after)["rows"]:
        print_json(row)
    return 0
