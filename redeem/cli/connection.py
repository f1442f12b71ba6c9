"""Which server a command talks to, and with what key."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Annotated
from uuid import UUID

import httpx
import typer

from redeem.client import Client
from redeem.errors import BadInput
from redeem.settings import DEFAULT_HOST, DEFAULT_PORT, read_settings

Server = Annotated[
    str | None,
    typer.Option(
        "--server", metavar="URL", help="A running server; by default REDEEM_SERVER, or the one of this machine."
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]
JobId = Annotated[UUID, typer.Argument(metavar="JOB", help="The job's id.")]


def connect(server: str | None) -> Client:
    """The server asked for, or the one that `redeem serve` runs here. Raises BadInput when there is no key for it."""
    settings = read_settings()
    url = server or settings.server or f"http://{DEFAULT_HOST}:{DEFAULT_PORT}"
    if settings.api_key:
        return Client(url, settings.api_key)
    if not _is_this_machine(url):  # the local key is nobody else's business
        raise BadInput("key_missing", f"There is no API key for {url}.", "Set REDEEM_API_KEY to a key of that server.")
    key_file = settings.data / "key"
    try:
        return Client(url, key_file.read_text().strip())
    except OSError as error:
        raise BadInput(
            "key_missing",
            f"There is no API key: REDEEM_API_KEY is not set, and {key_file} cannot be read ({error.strerror}).",
            "Start a server with `redeem serve`, name its folder with REDEEM_DATA, or set REDEEM_API_KEY.",
        ) from error


def _is_this_machine(url: str) -> bool:
    host = httpx.URL(url).host
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
