from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest

from redeem.contract import JobState
from service.settings import Settings
from tests.service.running import Service, problem, serving


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    data: Path = tmp_path_factory.mktemp("data")
    with serving(Settings(data=data, max_queued_jobs=2, max_stored_bytes=1000, max_webhooks=2)) as running:
        yield running


def test_a_tenant_has_so_many_jobs_waiting_and_no_more(service: Service) -> None:
    with service.as_tenant("busy") as busy:
        body = {"model": busy.model(), "clean": busy.bundle()}
        first = busy.http.post("/v1/jobs", json=body, headers={"Idempotency-Key": "first"})
        busy.post("/v1/jobs", body, 202)
        refused = busy.http.post("/v1/jobs", json=body)
        problem(refused, 429, "job_quota_exceeded")
        assert int(refused.headers["retry-after"]) > 0
        again = busy.http.post("/v1/jobs", json=body, headers={"Idempotency-Key": "first"})
        assert (again.status_code, again.json()["id"]) == (202, first.json()["id"])
        with service.as_tenant("another") as another:
            another.job()
        service.change(UUID(first.json()["id"]), state=JobState.running)
        busy.post("/v1/jobs", body, 202)


def test_a_tenant_has_so_many_webhooks_and_no_more(service: Service) -> None:
    body = {"url": "https://example.com/hook"}
    with service.as_tenant("talkative") as talkative:
        first = talkative.http.post("/v1/webhooks", json=body, headers={"Idempotency-Key": "first"})
        assert talkative.http.post("/v1/webhooks", json=body).status_code == 201
        problem(talkative.http.post("/v1/webhooks", json=body), 403, "webhook_quota_exceeded")
        again = talkative.http.post("/v1/webhooks", json=body, headers={"Idempotency-Key": "first"})
        assert (again.status_code, again.json()["id"]) == (201, first.json()["id"])
        with service.as_tenant("quiet") as quiet:
            assert quiet.http.post("/v1/webhooks", json=body).status_code == 201
        talkative.http.delete(f"/v1/webhooks/{first.json()['id']}")
        assert talkative.http.post("/v1/webhooks", json=body).status_code == 201


def stored(service: Service) -> set[Path]:
    """The files in the store, of whatever tenant."""
    return {path for path in service.parts.settings.store.rglob("*") if path.is_file()}


def test_a_tenant_stores_so_many_bytes_and_no_more(service: Service) -> None:
    with service.as_tenant("large") as large:
        large.upload("model", b"x" * 900)
        there = stored(service)
        announced = {"kind": "model", "filename": "m", "size": 101}
        problem(large.http.post("/v1/uploads", json=announced), 403, "storage_quota_exceeded")
        assert large.http.post("/v1/uploads", json=announced | {"size": 50}).status_code == 201
        id = large.http.post("/v1/uploads", json={"kind": "model", "filename": "m"}).json()["id"]
        problem(large.http.put(f"/v1/uploads/{id}/content", content=b"y" * 51), 403, "storage_quota_exceeded")
        assert large.http.get(f"/v1/uploads/{id}").json()["state"] == "open"
        chunks = iter([b"z" * 51])  # of which nobody knows how many come
        problem(large.http.put(f"/v1/uploads/{id}/content", content=chunks), 403, "storage_quota_exceeded")
        assert stored(service) == there
        assert large.http.put(f"/v1/uploads/{id}/content", content=b"y" * 50).status_code == 200
    with service.as_tenant("small") as small:
        small.upload("model", b"x" * 900)


def test_parts_count_before_their_upload_is_complete(service: Service) -> None:
    there = len(stored(service))
    with service.as_tenant("patient") as patient:
        one, other, last = (
            patient.http.post("/v1/uploads", json={"kind": "model", "filename": "m"}).json()["id"] for _ in range(3)
        )
        assert send(patient, one, b"x" * 900, 0) == 204
        assert send(patient, one, iter([b"y" * 101]), 900) == 403
        assert send(patient, other, b"y" * 101, 0) == 403
        assert send(patient, other, iter([b"y" * 101]), 0) == 403
        assert send(patient, other, b"y", 0, **{"Upload-Length": "101"}) == 403
        assert len(stored(service)) == there + 1
        assert send(patient, last, b"y", 0, **{"Upload-Length": "100"}) == 204  # what is announced is not counted twice
        assert send(patient, one, b"", 900, **{"Upload-Complete": "?1"}) == 200


def send(service: Service, upload: str, content: bytes | Iterator[bytes], offset: int, **more: str) -> int:
    headers = {"Content-Type": "application/partial-upload", "Upload-Offset": f"{offset}", "Upload-Complete": "?0"}
    answer = service.http.patch(f"/v1/uploads/{upload}/content", content=content, headers=headers | more)
    return answer.status_code
