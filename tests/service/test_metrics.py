from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from pydantic import SecretStr

from service.settings import Settings
from service.tables import now
from tests.service.running import Service, problem, serving, wait_until
from tests.service.webhooks.sink import listening, status

TOKEN = "a token of the operator's"
BEARER = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture
def database_url(either_database: str) -> str:
    return either_database


@pytest.fixture
def service(tmp_path: Path, database_url: str) -> Iterator[Service]:
    parts = {"data": tmp_path / "data", "database_url": database_url, "webhook_allow": "127.0.0.1/32"}
    with serving(Settings(**parts, metrics_token=SecretStr(TOKEN))) as running:
        yield running


def read(service: Service) -> dict[tuple[str, ...], float]:
    """Values by name and sorted labels."""
    text = httpx.get(f"{service.url}/metrics", headers=BEARER).text
    return {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_only_the_operators_token_opens_them(service: Service) -> None:
    tenants_key = service.http.headers["authorization"]
    for headers in ({}, {"Authorization": tenants_key}, {"Authorization": "Bearer wrong"}):
        problem(httpx.get(f"{service.url}/metrics", headers=headers), 401, "unauthorized")
    answer = httpx.get(f"{service.url}/metrics", headers=BEARER)
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")


def test_without_a_token_there_are_none(settings: Settings) -> None:
    with serving(settings) as service:
        for headers in ({}, {"Authorization": "Bearer"}, {"Authorization": "Bearer None"}):
            problem(httpx.get(f"{service.url}/metrics", headers=headers), 404, "not_found")


def test_the_queue_is_what_the_database_says(service: Service) -> None:
    assert read(service)["redeem_jobs", "queued"] == 0
    assert read(service)["redeem_oldest_queued_seconds",] == 0
    old, _, running = service.job(), service.job(), service.job()
    service.change(old, created_at=now() - timedelta(minutes=5))
    service.change(running, state="running")
    there = read(service)
    jobs = {state: there["redeem_jobs", state] for state in ("queued", "running", "succeeded", "failed", "cancelled")}
    assert jobs == {"queued": 2, "running": 1, "succeeded": 0, "failed": 0, "cancelled": 0}
    assert 300 <= there["redeem_oldest_queued_seconds",] < 330
    assert there["redeem_uploads", "complete"] == 6


def test_what_waits_is_told_by_class(service: Service) -> None:
    assert read(service)["redeem_queued_jobs", ""] == 0
    for device_class in (None, "h100", "h100"):
        service.change(service.job(), device_class=device_class)
    service.change(service.job(), device_class="h100", state="running")
    there = read(service)
    assert (there["redeem_queued_jobs", ""], there["redeem_queued_jobs", "h100"]) == (1, 2)


def test_an_ended_job_and_its_stages_are_observed_once(service: Service) -> None:
    settled = now() - timedelta(seconds=6)
    service.parts.metrics.observed_until = settled - timedelta(seconds=1)
    times: Any = {"started_at": settled - timedelta(seconds=90), "finished_at": settled}
    service.change(service.job(), state="succeeded", timings={"fetch": 2.0, "purify": 80.0}, gpu_bytes=2**30, **times)
    for _ in range(2):
        there = read(service)
        assert there["redeem_job_seconds_count", "succeeded"] == 1
        assert there["redeem_job_seconds_sum", "succeeded"] == pytest.approx(90, abs=0.01)
        assert there["redeem_stage_seconds_sum", "purify"] == 80
        assert (there["redeem_job_gpu_bytes_count",], there["redeem_job_gpu_bytes_sum",]) == (1, 2**30)
        assert there["redeem_stage_seconds_count", "fetch"] == 1


def test_requests_are_counted_by_route_and_never_by_id(service: Service) -> None:
    service.upload("bundle", b"x" * 1000)
    for _ in range(3):
        service.http.get(f"/v1/jobs/{uuid4()}")
        service.http.get(f"/{uuid4()}")
        service.http.request(f"M{uuid4().hex}", "/v1/jobs")
    there = read(service)
    name = "redeem_http_request_seconds_count"
    assert there[(name, *sorted(("GET", "/v1/jobs/{id}", "404")))] == 3
    assert there[(name, *sorted(("GET", "none", "404")))] == 3
    assert there["redeem_upload_bytes_total",] == 1000
    routes = {labels for sample, *labels in map(tuple, there) if sample == name for labels in [tuple(labels)]}
    assert len(routes) < 10


def test_what_webhooks_are_told_is_counted(service: Service) -> None:
    assert read(service)["redeem_webhook_attempts_total", "failed"] == 0
    with listening(status(500)) as dead, listening(status(200)) as live:
        for sink in (dead, live):
            made = service.post("/v1/webhooks", {"url": sink.url}, 201)
            service.post(f"/v1/webhooks/{made['id']}/test", None, 202)
        wait_until(lambda: read(service)["redeem_webhook_deliveries", "delivered"] == 1)
        wait_until(lambda: read(service)["redeem_webhook_attempts_total", "failed"] == 1)
    there = read(service)
    assert there["redeem_webhook_attempts_total", "good"] == 1
    assert (there["redeem_webhook_deliveries", "pending"], there["redeem_webhook_deliveries", "failed"]) == (1, 0)
