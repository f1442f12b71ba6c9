from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from redeem.client import Client
from redeem.contract import Architecture, BundleRole, Job, JobEvent, JobRequest, JobState, MethodRequest
from redeem.errors import BadInput, Corrupt, ServerProblem, Unreachable
from redeem.jobfile import read_job_file
from redeem.local.network import free_port
from redeem.local.server import Address, local_server


def test_a_job_is_uploaded_submitted_and_found_again(client: Client, submit: Any, files: Path) -> None:
    job = submit(client)
    assert job.state is JobState.queued
    assert client.get(job.id).model == job.model
    assert job.id in [listed.id for listed in client.jobs(limit=10)]


def test_the_list_ends_at_its_limit_and_goes_over_pages(client: Client, submit: Any) -> None:
    submitted = [submit(client).id for _ in range(3)]
    assert [job.id for job in client.jobs(limit=2)] == submitted[:0:-1]
    assert len(list(client.jobs(limit=150))) >= 3


def test_progress_of_an_upload_adds_up_to_the_file(client: Client, tmp_path: Path) -> None:
    (tmp_path / "images.zip").write_bytes(b"x" * 2_500_000)
    steps: list[int] = []
    bundle = client.upload_bundle(tmp_path / "images.zip", BundleRole.triggered, 3, advance=steps.append)
    assert sum(steps) == bundle.size == 2_500_000
    assert bundle.target == 3


@pytest.mark.parametrize("content", [None, b""], ids=["missing", "empty"])
def test_a_file_that_cannot_be_sent_is_refused_here(client: Client, tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "clean.zip").write_bytes(content)
    with pytest.raises(BadInput, match=r"clean\.zip"):
        client.upload_bundle(tmp_path / "clean.zip", BundleRole.clean)


def test_a_refusal_carries_the_servers_code_hint_and_fields(client: Client, submit: Any) -> None:
    job = submit(client)
    wrong = JobRequest(model=job.model, clean=job.clean, purifier=MethodRequest(name="sage", options={"beta": -1}))
    with pytest.raises(ServerProblem) as refused:
        client.submit(wrong)
    assert (refused.value.status, refused.value.code) == (422, "invalid_request")
    assert refused.value.hint
    assert any("beta" in field.where for field in refused.value.errors)


def test_an_unknown_key_and_an_unknown_job_have_their_codes(server: Address, client: Client) -> None:
    with pytest.raises(ServerProblem) as refused, Client(server.url, "wrong") as stranger:
        stranger.get(uuid4())
    assert refused.value.code == "unauthorized"
    with pytest.raises(ServerProblem) as missing:
        client.get(uuid4())
    assert missing.value.code == "not_found"


def test_no_server_is_told_soon() -> None:
    began = time.monotonic()
    with pytest.raises(Unreachable, match=r"127\.0\.0\.1"), Client(f"http://127.0.0.1:{free_port()}", "key") as client:
        client.get(uuid4())
    assert time.monotonic() - began < 5


def test_wait_ends_with_its_time_or_with_the_job(client: Client, submit: Any) -> None:
    job = submit(client)
    began = time.monotonic()
    assert client.wait(job.id, timeout=0.7).state is JobState.queued
    assert 0.6 < time.monotonic() - began < 3
    cancelling = threading.Timer(0.5, client.cancel, [job.id])
    cancelling.start()
    assert client.wait(job.id, timeout=20).state is JobState.cancelled
    cancelling.join()  # the client is closed after the test


def test_a_job_that_was_tried_again_is_followed_past_its_first_end(client: Client, submit: Any) -> None:
    job = submit(client)
    client.cancel(job.id)
    assert client.retry(job.id).state == JobState.queued
    client.cancel(job.id)
    assert [event.state for event in client.events(job.id)] == [
        JobState.queued,
        JobState.cancelled,
        JobState.queued,
        JobState.cancelled,
    ]


def test_events_replay_and_end_with_the_job(client: Client, submit: Any) -> None:
    job = submit(client)
    client.cancel(job.id)
    events = list(client.events(job.id))
    assert [event.state for event in events] == [JobState.queued, JobState.cancelled]
    assert list(client.events(job.id, after=events[0].seq)) == events[1:]
    assert list(client.events(job.id, after=events[-1].seq)) == []


def test_who_waits_outlives_a_killed_api(
    tmp_path: Path, without_worker: Any, submit: Any, kill_api: Callable[[Path], None]
) -> None:
    with (
        local_server(tmp_path / "data", processes=without_worker) as address,
        Client(address.url, address.key) as client,
    ):
        job = submit(client)
        events: list[JobEvent] = []
        waited: list[Job] = []
        watching = threading.Thread(target=lambda: events.extend(client.events(job.id)))
        waiting = threading.Thread(target=lambda: waited.append(client.wait(job.id, timeout=60)))
        watching.start()
        waiting.start()
        time.sleep(1)
        kill_api(tmp_path / "data")
        client.wait(job.id, timeout=0)
        client.cancel(job.id)
        watching.join(30)
        waiting.join(30)
    assert waited[0].state is JobState.cancelled
    assert [event.seq for event in events] == [1, 2]


def test_downloads_are_whole_and_checked(client: Client, finish: Any, tmp_path: Path) -> None:
    job = finish()
    steps: list[int] = []
    weights = client.download_weights(job.id, tmp_path / "deep" / "purified.safetensors", steps.append)
    artifacts = {artifact.name: artifact for artifact in client.artifacts(job.id)}
    assert weights.stat().st_size == artifacts["purified.safetensors"].size == sum(steps)
    assert client.download_weights(job.id, tmp_path / "purified.onnx").read_bytes() == b"graph"
    picture = client.download(job.id, artifacts["trigger.svg"], tmp_path / "trigger.svg")
    assert picture.read_bytes() == b"<svg/>"
    assert client.report(job.id).before.mpa == 0.8125
    assert client.download_report(job.id, tmp_path / "report.json").read_text().startswith("{")
    assert client.download_report(job.id, tmp_path / "report.html", "text/html").read_text() == "<html></html>"


def test_damaged_bytes_never_take_the_targets_name(client: Client, finish: Any, data: Path, tmp_path: Path) -> None:
    job = finish()
    (weights,) = [artifact for artifact in client.artifacts(job.id) if artifact.name == "purified.safetensors"]
    blob = data / "store" / "blobs" / weights.sha256[:2] / weights.sha256
    original = blob.read_bytes()
    target = tmp_path / "purified.safetensors"
    target.write_bytes(b"earlier")
    blob.write_bytes(original[:-1] + b"?")
    try:
        with pytest.raises(Corrupt, match=weights.sha256):
            client.download_weights(job.id, target)
    finally:
        blob.write_bytes(original)
    assert target.read_bytes() == b"earlier"
    assert [file.name for file in tmp_path.iterdir() if "purified" in file.name] == ["purified.safetensors"]


def test_architecture_of_an_unknown_name_is_refused_by_the_server(client: Client, files: Path) -> None:
    preprocessing = read_job_file(files / "job.json").model.preprocessing
    with pytest.raises(ServerProblem) as refused:
        client.upload_model(files / "suspect.safetensors", Architecture(name="paper/nothing"), preprocessing)
    assert refused.value.code == "unknown_architecture"


def test_a_job_is_deleted_with_its_inputs(client: Client, finish: Any) -> None:
    job = finish()
    client.delete_job(job.id)
    client.delete_model(job.model)
    client.delete_bundle(job.clean)
    with pytest.raises(ServerProblem) as told:
        client.get(job.id)
    assert told.value.code == "not_found"
