"""The server of one machine: which processes, with what settings, on which address."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from redeem.errors import ServeError
from redeem.local.folder import locked
from redeem.local.network import check_port, free_port, local_url
from redeem.local.processes import Process
from redeem.local.supervisor import supervised
from redeem.local.valkey import valkey
from redeem.settings import DEFAULT_HOST, child_environment

GPUS = Path("/proc/driver/nvidia/gpus")
# A package of each extra that the others do not bring.
EXTRAS = {"service": ("fastapi", "sqlalchemy", "celery"), "worker": ("torch", "torchvision", "safetensors")}


@dataclass(frozen=True)
class Address:
    url: str
    key: str
    key_file: Path
    ended: Future[None]
    """Ends only when the server cannot be kept up, with the ServeError that says why."""


def missing_extras() -> list[str]:
    return [
        extra
        for extra, packages in EXTRAS.items()
        if not all(importlib.util.find_spec(package) for package in packages)
    ]


def everything(folder: Path, host: str, port: int) -> Sequence[Process]:
    """Valkey, the API, a worker for each GPU or one without, in the order of their start."""
    broker = valkey(folder)
    environment = child_environment(REDEEM_DATA=str(folder), REDEEM_BROKER_URL=broker.url)
    return [broker.process, api(environment, host, port), *workers(environment)]


def workers(environment: dict[str, str], gpus: Path = GPUS) -> list[Process]:
    """One for each GPU, which is the only one that it sees from its start on; one if there is none, or the shell chose
    (`CUDA_VISIBLE_DEVICES`)."""
    devices = len(list(gpus.iterdir())) if gpus.is_dir() and "CUDA_VISIBLE_DEVICES" not in environment else 0
    if devices < 2:
        return [worker(environment)]
    return [
        worker(environment | {"CUDA_VISIBLE_DEVICES": str(device)}, f"worker-{device}") for device in range(devices)
    ]


@contextmanager
def local_server(
    data: Path,
    port: int | None = None,
    host: str = DEFAULT_HOST,
    processes: Callable[[Path, str, int], Sequence[Process]] = everything,
) -> Iterator[Address]:
    """A whole server in one folder, up when the block begins and gone when it ends. A free port where none is given.
    Raises ServeError when it cannot start."""
    if missing := missing_extras():
        raise ServeError(
            "extras_missing",
            f"This installation cannot run a server: the extras {', '.join(missing)} are not installed.",
            "pip install 'redeem[service,worker]', or use another server with --server or REDEEM_SERVER.",
        )
    port = port or free_port()
    check_port(host, port)
    with locked(data) as folder, supervised(processes(folder, host, port), folder) as ended:
        key_file = folder / "key"
        yield Address(local_url(host, port), key_file.read_text().strip(), key_file, ended)


def api(environment: dict[str, str], host: str, port: int) -> Process:
    readyz = f"{local_url(host, port)}/readyz"
    return Process(
        name="api",
        argv=(
            *(sys.executable, "-m", "uvicorn", "service.app:create_app", "--factory"),
            *("--host", host, "--port", str(port)),
            "--no-access-log",  # the service writes its own
            *("--timeout-graceful-shutdown", "2"),  # without it a client that follows a job keeps the API up for ever
        ),
        environment=environment,
        ready=lambda log: _answers(readyz),
        ready_within=60.0,
        grace=5.0,
    )


def worker(environment: dict[str, str], name: str = "worker") -> Process:
    return Process(
        name=name,
        argv=(
            *(sys.executable, "-m", "celery", "-A", "worker.app", "worker"),
            *("--concurrency", "1", "--hostname", f"{name}@%h"),
            *("--loglevel", "INFO", "--without-gossip", "--without-mingle"),
        ),
        # SIGTERM stops at once instead of when the job is done; its lease lets another attempt take it.
        environment=environment | {"REMAP_SIGTERM": "SIGQUIT"},
        ready=lambda log: f"{name}@" in log and " ready." in log,
        ready_within=180.0,
        grace=10.0,
    )


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=2.0, trust_env=False).is_success
    except httpx.TransportError:
        return False
