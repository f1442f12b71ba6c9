"""`redeem db …`: the database of a server, administered where it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from redeem.cli.connection import AsJson
from redeem.cli.output import EXIT_ERROR, out, print_json
from redeem.local.admin import administer

app = typer.Typer(
    help="Administer the database: that of REDEEM_DATABASE_URL, or the one in the data folder.", no_args_is_help=True
)

SHOWN = 20

Data = Annotated[Path | None, typer.Option(help="The server's folder; by default REDEEM_DATA, or redeem-data.")]


@app.command()
def upgrade(data: Data = None, as_json: AsJson = False) -> int:
    """Bring the database to the newest migration. Doing it again does no harm."""
    answer = administer("db upgrade", data)
    print_json(answer) if as_json else out().print(f"{answer['database']} is at {answer['revision']}, the newest")
    return 0


@app.command()
def check(data: Data = None, as_json: AsJson = False) -> int:
    """Tell whether the database fits this release. Exit code 0: it does; 2: `redeem db upgrade` has to run first."""
    answer = administer("db check", data)
    at = f"{answer['database']} is at {answer['revision'] or 'no migration'}"
    if as_json:
        print_json(answer)
    elif answer["revision"] == answer["newest"]:
        out().print(f"{at}, the newest")
    elif answer["fits"]:
        out().print(f"{at}, of a newer release than this one, which has {answer['newest']}")
    else:
        out().print(f"{at}, not at {answer['newest']}")
        out().print("`redeem db upgrade` brings it there.")
    return 0 if answer["fits"] else EXIT_ERROR


@app.command()
def gc(data: Data = None, as_json: AsJson = False) -> int:
    """Delete what is older than the retention, and bytes that nothing names. A server does it by itself every hour."""
    answer = administer("db gc", data)
    print_json(answer) if as_json else out().print(f"{answer['removed']} blobs removed")
    return 0


@app.command()
def blobs(data: Data = None, as_json: AsJson = False) -> int:
    """Compare what the database names with the store. Exit code 0: everything is there; 2: files are lost."""
    answer = administer("db blobs", data)
    print_json(answer) if as_json else print_blobs(answer)
    return EXIT_ERROR if answer["lost"] else 0


@app.command()
def backup(
    file: Annotated[Path, typer.Argument(help="A new file.")], data: Data = None, as_json: AsJson = False
) -> int:
    """Copy the database into a file, while the server runs. It holds the secrets of webhooks: keep it as safe.

    What jobs took and made is in the store. Copy that afterwards, and nothing that the file names is missing there."""
    answer = administer("db backup", data, file=str(file.absolute()))
    print_json(answer) if as_json else print_contents(answer)
    return 0


@app.command()
def restore(
    file: Annotated[Path, typer.Argument(help="What `redeem db backup` made.")],
    data: Data = None,
    as_json: AsJson = False,
) -> int:
    """Put a backup in the place of the database, which is kept beside it. The server has to be stopped."""
    answer = administer("db restore", data, file=str(file.absolute()))
    if as_json:
        print_json(answer)
        return 0
    print_contents(answer)
    out().print(f"restored, and brought to migration {answer['migrated']}")
    if answer["replaced"]:
        out().print(f"what was there before is {answer['replaced']}")
    if "error" in answer["blobs"]:
        out().print(f"The store does not tell what it has: {answer['blobs']['error']}")
        out().print("`redeem db blobs` asks it again.")
    else:
        print_blobs(answer["blobs"])
    out().print("Keys that were revoked since are good again, and jobs that ended since run again.")
    return 0


def print_contents(answer: dict[str, Any]) -> None:
    rows = ", ".join(f"{count} {table}" for table, count in answer["rows"].items() if count)
    out().print(f"{answer['file']}: {answer['size']} bytes, sha256 {answer['sha256']}")
    out().print(f"  at migration {answer['revision']}, with {rows or 'no rows'}")


def print_blobs(answer: dict[str, Any]) -> None:
    out().print(f"{answer['named'] - len(answer['lost'])} of {answer['named']} files that the database names are there")
    for lost in answer["lost"][:SHOWN]:
        out().print(f"  {lost['sha256']} is not: {', '.join(lost['by'])}")
    if len(answer["lost"]) > SHOWN:
        out().print(f"  … and {len(answer['lost']) - SHOWN} more (--json has all)")
    if answer["lost"]:
        out().print("Copy them back into the store, or send the uploads again: the same bytes take the same place.")
    if answer["unnamed"]:
        out().print(
            f"{answer['unnamed']} files are there that nothing names. A server removes those that are older than"
        )
        out().print(
            "REDEEM_BLOB_GRACE, by default an hour; have it longer (P30D) if another database may still come back."
        )
