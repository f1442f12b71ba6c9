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
    with serving(Settings(data=data, max_queued_jobs=2, max_stored_bytes=1000)) as running:
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


def test_a_tenant_stores_so_many_bytes_and_no_more(service: Service) -> None:
    with service.as_tenant("large") as large:
        large.upload("model", b"x" * 900)
        announced = {"kind": "model", "filename": "m", "size": 101}
        problem(large.http.post("/v1/uploads", json=announced), 403, "storage_quota_exceeded")
        assert large.http.post("/v1/uploads", json=announced | {"size": 50}).status_code == 201
        id = large.http.post("/v1/uploads", json={"kind": "model", "filename": "m"}).json()["id"]
        problem(large.http.put(f"/v1/uploads/{id}/content", content=b"y" * 51), 403, "storage_quota_exceeded")
        assert large.http.get(f"/v1/uploads/{id}").json()["state"] == "open"
        assert large.http.put(f"/v1/uploads/{id}/content", content=b"y" * 50).status_code == 200
    with service.as_tenant("small") as small:
        small.upload("model", b"x" * 900)
