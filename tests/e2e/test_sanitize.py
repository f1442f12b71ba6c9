"""One server with everything that belongs to it: API, Valkey, Celery worker, as `redeem serve` starts them."""

from __future__ import annotations

import hashlib
import json
import os
import signal
from pathlib import Path

import pytest
from safetensors.torch import load_file

from redeem.client import Client
from redeem.contract import JobState, Stage
from redeem.local import local_server
from tests.e2e.processes import pool_child, processes, wait
from tests.e2e.sending import sent

EPOCHS = 60  # a few seconds: long enough to die in


def test_a_job_from_upload_to_download_though_its_worker_is_killed(folder: Path) -> None:
    data = folder / "data"
    with local_server(data) as server, Client(server.url, server.key) as client:
        request = sent(client, folder, EPOCHS)
        job = client.submit(request)
        wait(lambda: client.get(job.id).stage == "purify")
        os.kill(pool_child(data), signal.SIGKILL)
        job = client.wait(job.id, timeout=300)
        assert (job.state, job.attempts) == (JobState.succeeded, 2), job.error
        stages = [event.stage for event in client.events(job.id) if event.type == "stage"]
        assert (stages.count(Stage.assess_before), stages.count(Stage.purify)) == (1, 2)

        report = client.report(job.id)
        assert (report.before.asr, report.verdict.outcome) == (1.0, job.verdict)
        assert {artifact.name for artifact in client.artifacts(job.id)} >= {"purified.safetensors", "report.json"}
        weights = client.download_weights(job.id, folder / "purified.safetensors")
        told = next(artifact for artifact in report.artifacts if artifact.name == weights.name)
        assert hashlib.sha256(weights.read_bytes()).hexdigest() == told.sha256
        assert load_file(weights).keys() == load_file(folder / "suspect.safetensors").keys()
        assert "succeeded" in [line["event"] for line in _logged(data) if line["job"] == str(job.id)]

        left = client.submit(request)
        wait(lambda: client.get(left.id).state is JobState.running)
    assert processes(data) == {}


def test_a_worker_that_is_told_to_stop_gives_its_job_back_at_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDEEM_LEASE", "PT10M")  # nobody would miss it for so long
    data = folder / "data"
    with local_server(data) as server, Client(server.url, server.key) as client:
        job = client.submit(sent(client, folder, EPOCHS))
        wait(lambda: client.get(job.id).stage == "purify")
        (worker,) = processes(data, "worker.app worker")
        os.kill(worker, signal.SIGTERM)
        wait(lambda: client.get(job.id).state is JobState.queued)
        job = client.wait(job.id, timeout=300)
        assert (job.state, job.attempts) == (JobState.succeeded, 1), job.error
        assert [event.state for event in client.events(job.id) if event.type == "state"] == [
            JobState.queued, JobState.running, JobState.queued, JobState.running, JobState.succeeded,
        ]  # fmt: skip


def _logged(data: Path) -> list[dict[str, str]]:
    """What the worker says of jobs, among what Celery says."""
    lines = (data / "logs" / "worker.log").read_text().splitlines()
    return [told for line in lines if line.startswith("{") and "job" in (told := json.loads(line))]
