from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from service.settings import Settings
from tests.service.running import ARCHITECTURE, PREPROCESSING, Service, problem, serving


@pytest.fixture(scope="module")
def bodies(service: Service) -> dict[str, dict[str, Any]]:
    """A request for each POST that creates."""
    return {
        "uploads": {"kind": "model", "filename": "m"},
        "models": {"upload": service.upload("model"), "architecture": ARCHITECTURE, "preprocessing": PREPROCESSING},
        "bundles": {"upload": service.upload("bundle"), "role": "clean"},
        "jobs": {"model": service.model(), "clean": service.bundle()},
    }


@pytest.mark.parametrize("what", ["uploads", "models", "bundles", "jobs"])
def test_the_same_key_creates_once(service: Service, bodies: dict[str, dict[str, Any]], what: str) -> None:
    def send(key: str) -> Any:
        return service.http.post(f"/v1/{what}", json=bodies[what], headers={"Idempotency-Key": key})

    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(send, [f"{what}-1"] * 20))
    made = [answer for answer in answers if answer.status_code != 409]
    assert len({answer.json()["id"] for answer in made}) == 1
    for answer in answers:
        if answer not in made:  # a database that lets two write at once tells the second one to come again
            problem(answer, 409, "key_in_use")
    assert send(f"{what}-1").json()["id"] == made[0].json()["id"]
    assert send(f"{what}-2").json()["id"] != made[0].json()["id"]


def test_a_key_is_for_one_request(service: Service, bodies: dict[str, dict[str, Any]]) -> None:
    headers = {"Idempotency-Key": "once"}
    assert service.http.post("/v1/uploads", json=bodies["uploads"], headers=headers).status_code == 201
    other = {**bodies["uploads"], "filename": "another"}
    problem(service.http.post("/v1/uploads", json=other, headers=headers), 422, "key_reused")
    problem(service.http.post("/v1/jobs", json=bodies["jobs"], headers=headers), 422, "key_reused")


def test_a_repeated_submit_tells_how_the_job_stands_and_writes_no_history(
    service: Service, bodies: dict[str, dict[str, Any]]
) -> None:
    headers = {"Idempotency-Key": "again"}
    job = service.http.post("/v1/jobs", json=bodies["jobs"], headers=headers).json()["id"]
    service.post(f"/v1/jobs/{job}/cancel", None, 202)
    again = service.http.post("/v1/jobs", json=bodies["jobs"], headers=headers).json()
    assert (again["id"], again["state"]) == (job, "cancelled")
    assert service.http.get(f"/v1/jobs/{job}/events").text.count("event:") == 2


def test_a_refused_request_uses_no_key_up(service: Service, bodies: dict[str, dict[str, Any]]) -> None:
    headers = {"Idempotency-Key": "refused"}
    wrong = {**bodies["jobs"], "clean": bodies["jobs"]["model"]}
    problem(service.http.post("/v1/jobs", json=wrong, headers=headers), 422, "unknown_reference")
    assert service.http.post("/v1/jobs", json=bodies["jobs"], headers=headers).status_code == 202


def test_what_was_deleted_is_not_made_again_by_its_key(service: Service, bodies: dict[str, dict[str, Any]]) -> None:
    headers = {"Idempotency-Key": "gone"}
    upload = service.http.post("/v1/uploads", json=bodies["uploads"], headers=headers).json()["id"]
    assert service.http.delete(f"/v1/uploads/{upload}").status_code == 204
    problem(service.http.post("/v1/uploads", json=bodies["uploads"], headers=headers), 410, "deleted")
    other = {**bodies["uploads"], "filename": "another"}
    problem(service.http.post("/v1/uploads", json=other, headers=headers), 422, "key_reused")


def test_a_repeated_submit_is_answered_though_it_would_be_refused_by_now(settings: Settings) -> None:
    headers = {"Idempotency-Key": "once"}
    with serving(settings.model_copy(update={"device_classes": "h100"})) as service:
        body = {"model": service.model(), "clean": service.bundle(), "device_class": "h100"}
        job = service.http.post("/v1/jobs", json=body, headers=headers).json()["id"]
    with serving(settings) as without:
        assert without.http.post("/v1/jobs", json=body, headers=headers).json()["id"] == job
        problem(without.http.post("/v1/jobs", json=body), 422, "unknown_device_class")
