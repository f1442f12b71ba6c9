"""A worker on another host, which is a network namespace with an address of its own and without the files of this one:
it reaches a database, a broker and an object store by the network, and nothing else."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import random
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from uuid import uuid4

import pytest

from redeem.client import Client
from redeem.contract import JobState
from redeem.local import local_server
from redeem.local.network import free_port
from redeem.local.processes import Process
from redeem.local.server import api, worker
from redeem.local.valkey import find_valkey
from redeem.settings import child_environment
from service import database, migrate
from service.settings import Settings
from tests.e2e.processes import processes
from tests.e2e.sending import sent
from tests.postgres import find_postgres, postgres_server
from tests.stacks import s3_server


@dataclasses.dataclass(frozen=True)
class Host:
    namespace: str
    here: str
    """The address of this host, as the other one sees it."""


@pytest.fixture
def host() -> Iterator[Host]:
    number = random.randrange(2**14) * 4  # noqa: S311
    network = f"10.213.{number // 256}.{number % 256}"
    here, there = (network.rsplit(".", 1)[0] + f".{number % 256 + last}" for last in (1, 2))
    namespace, this_end, that_end = (f"rd{kind}{number}" for kind in "nab")
    up = [
        f"netns add {namespace}",
        f"link add {this_end} type veth peer name {that_end} netns {namespace}",
        f"addr add {here}/30 dev {this_end}",
        f"link set {this_end} up",
        f"-n {namespace} addr add {there}/30 dev {that_end}",
        f"-n {namespace} link set {that_end} up",
        f"-n {namespace} link set lo up",
    ]
    try:
        for command in up:
            try:
                subprocess.run(["ip", *command.split()], check=True, capture_output=True)
            except (OSError, subprocess.CalledProcessError) as error:
                pytest.skip(f"this user may not make a network: {error}")
        yield Host(namespace, here)
    finally:
        with contextlib.suppress(OSError):
            subprocess.run(["ip", "netns", "del", namespace], check=False, capture_output=True)


@pytest.fixture
def shared(host: Host, tmp_path: Path) -> Iterator[dict[str, str]]:
    """What both hosts are told: a PostgreSQL, a Valkey and an S3 that listen on an address of this one."""
    binaries, valkey = find_postgres(), find_valkey()
    if binaries is None or valkey is None:
        pytest.skip("no PostgreSQL or no Valkey here")
    port = free_port()
    listening = ("--bind", host.here, "--port", str(port), "--protected-mode", "no", "--save", "", "--appendonly", "no")
    with (
        postgres_server(binaries, host.here) as postgres,
        s3_server(host.here) as s3,
        subprocess.Popen([valkey, *listening], cwd=tmp_path, stdout=subprocess.DEVNULL) as broker,
    ):
        yield {
            "REDEEM_DATABASE_URL": postgres.network_url("postgres"),
            "REDEEM_BROKER_URL": f"redis://{host.here}:{port}/0",
            "REDEEM_STORE_URL": f"s3://redeem/{uuid4()}",
            "REDEEM_STORE_OPTIONS": json.dumps(s3),
        }
        broker.terminate()


def test_a_worker_on_another_host_shares_no_files(host: Host, shared: dict[str, str], folder: Path) -> None:
    engine = database.open_engine(Settings(database_url=shared["REDEEM_DATABASE_URL"]))
    migrate.upgrade(engine)
    engine.dispose()
    here, elsewhere = folder / "api", folder / "worker"
    elsewhere.mkdir()

    def two(data: Path, name: str, port: int) -> Sequence[Process]:
        return [
            api(child_environment(REDEEM_DATA=str(data), **shared), name, port),
            _on(host, worker(child_environment(REDEEM_DATA=str(elsewhere), **shared)), hidden=folder),
        ]

    with local_server(here, processes=two) as server, Client(server.url, server.key) as client:
        (process,) = processes(elsewhere, "worker.app worker")
        assert os.readlink(f"/proc/{process}/ns/net") != os.readlink("/proc/self/ns/net")
        assert not Path(f"/proc/{process}/root{folder}/api").exists()
        job = client.wait(client.submit(sent(client, folder, epochs=2)).id, timeout=300)
        assert job.state is JobState.succeeded, job.error
        weights = client.download_weights(job.id, folder / "purified.safetensors")
        told = next(artifact for artifact in client.artifacts(job.id) if artifact.name == weights.name)
        assert hashlib.sha256(weights.read_bytes()).hexdigest() == told.sha256


def _on(host: Host, process: Process, hidden: Path) -> Process:
    """The same, in the other network, with nothing but emptiness where this host has the test's files."""
    enter = ("ip", "netns", "exec", host.namespace, "unshare", "--mount", "--propagation", "private")
    hide = (
        "sh",
        "-c",
        'mount -t tmpfs none "$0" && mkdir -p "$REDEEM_DATA" && cd "$REDEEM_DATA" && exec "$@"',
        str(hidden),
    )
    return dataclasses.replace(process, argv=(*enter, *hide, *process.argv))
