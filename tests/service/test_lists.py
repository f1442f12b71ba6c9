"""What lists are filtered by, and how their pages follow each other."""

from __future__ import annotations

import hashlib
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from service.tables import now
from tests.service.running import ARCHITECTURE, PREPROCESSING, Service, problem


def listed(service: Service, what: str, **query: Any) -> list[str]:
    answer = service.http.get(f"/v1/{what}", params=query)
    assert answer.status_code == 200, answer.text
    return [item["id"] for item in answer.json()["items"]]


def suspect(service: Service, content: bytes, labels: dict[str, str]) -> str:
    upload = service.upload("model", content)
    body = {"upload": upload, "architecture": ARCHITECTURE, "preprocessing": PREPROCESSING, "labels": labels}
    return str(service.post("/v1/models", body, 201)["id"])


@pytest.fixture(scope="module")
def jobs(service: Service) -> list[UUID]:
    clean = service.bundle()
    models = [suspect(service, content, {"origin": "shop"}) for content in (b"one", b"two")]
    labels: list[dict[str, str]] = [
        {"commit": "abc", "team": "a"},
        {"commit": "abc"},
        {'"\\': "%' OR 1=1", "é": "x=y"},
    ]
    made = [
        UUID(service.post("/v1/jobs", {"model": model, "clean": clean, "labels": label}, 202)["id"])
        for model, label in zip((models[0], models[0], models[1]), labels, strict=True)
    ]
    service.change(made[0], state="succeeded", verdict="pass")
    service.change(made[1], state="succeeded", verdict="fail")
    return made


def test_jobs_by_state_verdict_label_and_hash_of_the_model(service: Service, jobs: list[UUID]) -> None:
    first, second, third = map(str, jobs)
    assert listed(service, "jobs", state="succeeded") == [second, first]
    assert listed(service, "jobs", verdict="fail") == [second]
    assert listed(service, "jobs", label="commit=abc") == [second, first]
    assert listed(service, "jobs", label=["commit=abc", "team=a"]) == [first]
    assert listed(service, "jobs", label="commit=ab") == listed(service, "jobs", label="commit=") == []
    assert listed(service, "jobs", label="\"\\=%' OR 1=1") == [third]
    assert listed(service, "jobs", label="é=x=y") == [third]
    assert listed(service, "jobs", sha256=hashlib.sha256(b"two").hexdigest()) == [third]
    assert listed(service, "jobs", sha256=hashlib.sha256(b"one").hexdigest(), verdict="pass") == [first]
    assert listed(service, "jobs", sha256="0" * 64) == []


def test_jobs_by_when_they_were_created(service: Service, jobs: list[UUID]) -> None:
    times = [service.http.get(f"/v1/jobs/{job}").json()["created_at"] for job in jobs]
    between = {"created_after": times[1], "created_before": times[2]}
    assert listed(service, "jobs", **between) == [str(jobs[1])]  # from the first on, the second not among them
    east = datetime.fromisoformat(times[2]).astimezone(tz=None).isoformat()
    assert str(jobs[2]) in listed(service, "jobs", created_after=east)
    assert str(jobs[1]) not in listed(service, "jobs", created_after=east)
    assert listed(service, "jobs", created_after=(now() + timedelta(days=1)).isoformat()) == []
    assert listed(service, "jobs", created_before="1066-10-14T09:00:00Z") == []
    assert listed(service, "jobs", created_after="0001-01-01T00:00:00Z")


def test_uploads_models_and_bundles(service: Service, jobs: list[UUID]) -> None:
    two = hashlib.sha256(b"two").hexdigest()
    model = service.http.get(f"/v1/jobs/{jobs[2]}").json()["model"]
    assert listed(service, "models", sha256=two) == [model]
    assert model in listed(service, "models", label="origin=shop")
    assert listed(service, "models", label="origin=lab") == []
    triggered = service.bundle("triggered", 0)
    assert listed(service, "bundles", role="triggered") == [triggered]
    assert triggered in listed(service, "bundles", sha256=hashlib.sha256(b"bytes").hexdigest())
    opened = service.post("/v1/uploads", {"kind": "model", "filename": "late"}, 201)["id"]
    assert listed(service, "uploads", state="open") == [opened]
    assert len(listed(service, "uploads", sha256=two, kind="model", state="complete")) == 1
    assert listed(service, "uploads", sha256=two, kind="bundle") == []


def test_links_lead_through_all_pages_with_the_same_filter(service: Service, jobs: list[UUID]) -> None:
    path = "/v1/jobs?label=commit%3Dabc&limit=1"
    seen = []
    while path:
        answer = service.http.get(path)
        seen += [item["id"] for item in answer.json()["items"]]
        path = answer.links.get("next", {}).get("url", "")
    assert seen == [str(jobs[1]), str(jobs[0])]


@pytest.mark.parametrize(
    "query",
    [
        {"sate": "failed"},
        {"state": "odd"},
        {"verdict": "passed"},
        {"label": "no value"},
        {"label": "=no key"},
        {"label": ["a=b"] * 33},
        {"sha256": "AB" * 32},
        {"created_after": "2026-11-28T06:00:00"},
        {"created_before": "yesterday"},
        {"created_after": "0"},
        {"created_before": "-1.4e-266"},
        {"created_after": "-1700000000"},
        {"created_before": "9999-12-31T23:59:59-23:59"},
        {"created_after": "0001-01-01T00:00:00+23:59"},
    ],
)
def test_a_wrong_filter_is_refused_and_not_ignored(service: Service, query: dict[str, Any]) -> None:
    problem(service.http.get("/v1/jobs", params=query), 422, "invalid_request")
