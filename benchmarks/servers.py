"""Servers to measure: uvicorn in a process of its own, and what has to be in a database before there are jobs."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import httpx
from sqlalchemy.orm import Session

from redeem.local.network import free_port
from redeem.local.processes import Process
from redeem.local.server import everything
from service.tables import BundleRow, ModelRow, TenantRow, UploadRow


def owner(session: Session, name: str) -> dict[str, UUID]:
    """A new tenant with a model and a bundle; what a row of its jobs says of them."""
    tenant = TenantRow(name=name)
    session.add(tenant)
    session.flush()
    upload = UploadRow(tenant_id=tenant.id, kind="model", filename="suspect.safetensors", state="complete", size=1)
    session.add(upload)
    session.flush()
    model = ModelRow(tenant_id=tenant.id, upload_id=upload.id, architecture={}, preprocessing={}, labels={})
    clean = BundleRow(tenant_id=tenant.id, upload_id=upload.id, role="clean")
    session.add_all([model, clean])
    session.flush()
    return {"tenant_id": tenant.id, "model_id": model.id, "clean_id": clean.id}


@contextlib.contextmanager
def served(app: Sequence[str], environment: dict[str, str], folder: Path) -> Iterator[str]:
    """Its address, once it answers."""
    with served_by(app, environment, folder) as (url, _):
        yield url


@contextlib.contextmanager
def served_by(
    app: Sequence[str], environment: dict[str, str], folder: Path
) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """The same, and its process."""
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", *app, "--port", str(port), "--no-access-log", "--log-level", "warning"]
    with folder.joinpath("server.log").open("wb") as log:
        process = subprocess.Popen(command, env=os.environ | environment, stdout=log, stderr=log)  # noqa: S603
        try:
            url = f"http://127.0.0.1:{port}"
            _wait_for(url, process)
            yield url, process
        finally:
            process.terminate()
            process.wait(30)


def acting_as(module: str, worker: Process) -> Process:
    """The worker, but with the Celery app of this module of the checkout."""
    words = [module if word == "worker.app" else word for word in worker.argv]
    path = f"{Path(__file__).parents[1]}:{worker.environment['PYTHONPATH']}"
    return replace(worker, argv=tuple(words), environment={**worker.environment, "PYTHONPATH": path})


def with_worker(module: str) -> Callable[[Path, str, int], Sequence[Process]]:
    """A whole server, but its workers have the Celery app of this module of the checkout."""

    def processes(folder: Path, host: str, port: int) -> Sequence[Process]:
        return [
            acting_as(module, process) if process.name.startswith("worker") else process
            for process in everything(folder, host, port)
        ]

    return processes


def _wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while True:
        with contextlib.suppress(httpx.TransportError):
            httpx.get(f"{url}/livez", timeout=2, trust_env=False)
            return
        if process.poll() is not None or time.monotonic() > deadline:
            raise SystemExit(f"no server came up at {url}")
        time.sleep(0.1)
