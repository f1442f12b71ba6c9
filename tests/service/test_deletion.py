"""What is deleted is gone with its bytes, and nothing else is: on both databases."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import hashlib
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from sqlalchemy.orm import Session

from service import blobs, deletion, store, upkeep
from service.context import Context
from service.settings import Settings
from service.tables import now
from tests.service.running import Service, problem, serving

OLD = timedelta(days=40)


@pytest.fixture
def database_url(either_database: str) -> str:
    return either_database


@pytest.fixture
def service(tmp_path: Path, database_url: str) -> Iterator[Service]:
    settings = Settings(
        data=tmp_path / "data", database_url=database_url, blob_grace=timedelta(0), retention_days=OLD.days - 10
    )
    with serving(settings) as running:
        yield running


def ended(service: Service, content: bytes = b"purified") -> UUID:
    job = service.job()
    service.artifact(job, "purified.safetensors", content)
    service.artifact(job, "assess_before", b"kept " + content, internal=True)
    service.change(job, state="succeeded", finished_at=now())
    return job


def blob(service: Service, sha256: str) -> Path:
    return service.parts.settings.store / store.blob_key(sha256)


def blobs_there(service: Service) -> set[str]:
    return {path.name for path in (service.parts.settings.store / "blobs").rglob("*") if path.is_file()}


def delete(service: Service, path: str) -> int:
    return service.http.delete(f"/v1/{path}").status_code


def test_a_deleted_job_is_gone_with_its_files_and_what_others_name_stays(service: Service) -> None:
    job, other = ended(service, b"shared"), ended(service, b"shared")
    alone = service.artifact(job, "picture.svg", b"only this job's")
    shared = service.artifact(other, "again.svg", b"also this one's")
    assert delete(service, f"jobs/{job}") == 204
    problem(service.http.get(f"/v1/jobs/{job}"), 404, "not_found")
    problem(service.http.get(f"/v1/jobs/{job}/weights"), 404, "not_found")
    assert not blob(service, alone).exists()
    assert blob(service, shared).exists()
    assert service.http.get(f"/v1/jobs/{other}/weights").content == b"shared"
    problem(service.http.delete(f"/v1/jobs/{job}"), 404, "not_found")


def test_what_is_used_cannot_be_deleted(service: Service) -> None:
    job = service.job()
    problem(service.http.delete(f"/v1/jobs/{job}"), 409, "job_not_finished")
    row = service.row(job)
    for path in (f"models/{row.model_id}", f"bundles/{row.clean_id}"):
        problem(service.http.delete(f"/v1/{path}"), 409, "in_use")
        assert service.http.get(f"/v1/{path}").status_code == 200
    service.change(job, state="cancelled", finished_at=now())
    for path in (f"jobs/{job}", f"models/{row.model_id}", f"bundles/{row.clean_id}"):
        assert delete(service, path) == 204
        problem(service.http.delete(f"/v1/{path}"), 404, "not_found")


def test_nobody_deletes_what_is_another_tenants(service: Service) -> None:
    job = ended(service)
    row = service.row(job)
    with service.as_tenant("other") as other:
        for path in (f"jobs/{job}", f"models/{row.model_id}", f"bundles/{row.clean_id}"):
            problem(other.http.delete(f"/v1/{path}"), 404, "not_found")
    assert service.http.get(f"/v1/jobs/{job}/weights").content == b"purified"


def test_bytes_that_two_tenants_have_outlive_the_deletion_of_one(service: Service) -> None:
    job = ended(service, b"the same bytes")
    with service.as_tenant("other") as other:
        other.upload("model", b"the same bytes")
    assert delete(service, f"jobs/{job}") == 204
    assert blob(service, _sha256(b"the same bytes")).exists()


def test_a_deleted_upload_takes_its_bytes_along(service: Service) -> None:
    first, second = service.upload("model", b"twice"), service.upload("model", b"twice")
    assert delete(service, f"uploads/{first}") == 204
    assert _sha256(b"twice") in blobs_there(service)
    assert delete(service, f"uploads/{second}") == 204
    assert _sha256(b"twice") not in blobs_there(service)


def test_a_used_idempotency_key_of_something_deleted_makes_it_anew(service: Service) -> None:
    body = {"upload": service.upload("bundle"), "role": "clean", "target": None}
    headers = {"Idempotency-Key": "once"}
    first = service.http.post("/v1/bundles", json=body, headers=headers).json()["id"]
    assert delete(service, f"bundles/{first}") == 204
    again = service.http.post("/v1/bundles", json=body, headers=headers)
    assert (again.status_code, again.json()["id"] != first) == (201, True)


def test_a_download_under_way_is_finished(service: Service) -> None:
    content = os.urandom(2**20) * 24
    job = ended(service, content)
    with service.http.stream("GET", f"/v1/jobs/{job}/weights") as answer:
        chunks = answer.iter_raw(2**16)
        came = [next(chunks)]
        assert delete(service, f"jobs/{job}") == 204
        came.extend(chunks)
    assert b"".join(came) == content


def test_a_download_that_begins_while_its_job_goes_is_told_so(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = ended(service)
    open_range = store.open_range

    async def too_late(*arguments: object) -> object:
        await _in_thread(lambda: delete(service, f"jobs/{job}"))
        return await open_range(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(store, "open_range", too_late)
    problem(service.http.get(f"/v1/jobs/{job}/weights"), 410, "deleted")


async def _in_thread(work: object) -> None:
    await asyncio.to_thread(work)  # type: ignore[arg-type]


def test_old_things_go_and_young_ones_and_what_they_need_stay(service: Service) -> None:
    old, young = ended(service, b"old"), ended(service, b"young")
    needed = service.row(young)
    with service.parts.sessions.begin() as session:
        for row in (service.row(old), needed):
            for id, table in ((row.model_id, deletion.ModelRow), (row.clean_id, deletion.BundleRow)):
                found = session.get_one(table, id)
                found.created_at = found.upload.created_at = now() - OLD
    service.change(old, finished_at=now() - OLD)
    upkeep.clean(service.parts)
    problem(service.http.get(f"/v1/jobs/{old}"), 404, "not_found")
    assert service.http.get(f"/v1/jobs/{young}/weights").content == b"young"
    assert service.http.get(f"/v1/models/{needed.model_id}").status_code == 200
    assert [job["id"] for job in service.http.get("/v1/jobs").json()["items"]] == [str(young)]
    assert len(service.http.get("/v1/models").json()["items"]) == 1
    names = {b"young": True, b"old": False, b"kept young": False}
    assert {name: store.Digest(0, _sha256(name)).sha256 in blobs_there(service) for name in names} == names


def test_what_webhooks_were_told_goes_when_it_is_old_and_what_they_are_to_be_told_stays(service: Service) -> None:
    url = "https://example.invalid/hook"  # which nobody resolves, so what is sent there stays pending
    webhook = service.post("/v1/webhooks", {"url": url}, 201)["id"]
    deliveries = f"/v1/webhooks/{webhook}/deliveries"
    ids = [service.post(f"/v1/webhooks/{webhook}/test", {}, 202)["id"] for _ in range(3)]
    told, pending, young = map(UUID, ids)
    with service.parts.sessions.begin() as session:
        for id, state, age in ((told, "delivered", OLD), (pending, "pending", OLD), (young, "failed", OLD / 2)):
            row = session.get_one(deletion.DeliveryRow, id, with_for_update=True)
            row.state, row.created_at = state, now() - age
    upkeep.clean(service.parts)
    left = {delivery["id"] for delivery in service.http.get(deliveries).json()["items"]}
    assert left == {str(pending), str(young)}


def test_old_jobs_that_went_or_were_retried_since_they_were_found_stop_no_round(service: Service) -> None:
    went, retried, old = (ended(service, content) for content in (b"went", b"retried", b"old"))
    for job in (went, retried, old):
        service.change(job, finished_at=now() - OLD)
    found = []

    @contextlib.contextmanager
    def readers() -> Iterator[Session]:
        with service.parts.readers() as session:
            yield session
        if not found:
            found.append(True)
            assert delete(service, f"jobs/{went}") == 204
            service.change(retried, finished_at=now())

    upkeep.clean(dataclasses.replace(service.parts, readers=readers))
    problem(service.http.get(f"/v1/jobs/{old}"), 404, "not_found")
    assert service.http.get(f"/v1/jobs/{retried}/weights").content == b"retried"


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_orphans_go_once_they_are_old_enough(service: Service) -> None:
    orphan = store.put_bytes(service.parts.store, b"nobody's").sha256
    wanted = service.artifact(ended(service), "more.txt", b"somebody's")
    young = Settings(data=service.parts.settings.data, blob_grace=timedelta(hours=1))
    assert blobs.sweep(_with(service, young)) == 0
    hour_ago = time.time() - 3700
    os.utime(blob(service, orphan), (hour_ago, hour_ago))
    os.utime(blob(service, wanted), (hour_ago, hour_ago))
    assert blobs.sweep(_with(service, young)) == 1
    assert not blob(service, orphan).exists()
    assert blob(service, wanted).exists()


def _with(service: Service, settings: Settings) -> Context:
    return dataclasses.replace(service.parts, settings=settings)


def test_uploads_of_bytes_that_are_being_collected_are_never_lost(service: Service) -> None:
    """Over and over the same bytes are uploaded and forgotten, while a collector without grace races for them."""
    content, stop = b"contested", threading.Event()
    sha256 = _sha256(content)

    def collecting() -> int:
        removed = 0
        while not stop.is_set():
            removed += blobs.collect(service.parts, [sha256])
        return removed

    def uploading() -> tuple[int, int]:
        kept = refused = 0
        for _ in range(12):
            opened = service.http.post("/v1/uploads", json={"kind": "bundle", "filename": "f"}).json()["id"]
            answer = service.http.put(f"/v1/uploads/{opened}/content", content=content)
            if answer.status_code != 200:
                problem(answer, 400, "upload_interrupted")
                refused += 1
                continue
            kept += 1
            assert blob(service, sha256).read_bytes() == content
            with service.parts.sessions.begin() as session:
                session.execute(deletion.delete(deletion.UploadRow).where(deletion.UploadRow.id == UUID(opened)))
        return kept, refused

    with ThreadPoolExecutor(2) as pool:
        collector = pool.submit(collecting)
        try:
            kept, refused = uploading()
        finally:
            stop.set()
        assert kept + refused == 12
        assert collector.result() > 0


def test_an_unknown_id_is_not_found(service: Service) -> None:
    for kind in ("jobs", "models", "bundles"):
        problem(service.http.delete(f"/v1/{kind}/{uuid4()}"), 404, "not_found")
