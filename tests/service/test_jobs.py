from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

import httpx
import pytest

from redeem.detector_options import DETECTOR_OPTIONS
from redeem.options import PURIFIER_OPTIONS
from service.tables import now
from tests.service.running import Service, problem


@pytest.fixture(scope="module")
def inputs(service: Service) -> dict[str, Any]:
    return {"model": service.model(), "clean": service.bundle()}


def test_a_job_is_accepted_without_a_broker(service: Service, inputs: dict[str, Any]) -> None:
    answer = service.http.post("/v1/jobs", json={**inputs, "seed": 2**32 - 1, "labels": {"commit": "abc"}})
    job = answer.json()
    assert answer.status_code == 202
    assert answer.headers["location"] == f"/v1/jobs/{job['id']}"
    assert answer.headers["retry-after"].isdecimal()
    assert (job["state"], job["progress"], job["verdict"], job["attempts"]) == ("queued", 0.0, None, 0)
    assert (job["seed"], job["labels"]) == (2**32 - 1, {"commit": "abc"})
    assert service.http.get(answer.headers["location"]).json() == job


def test_a_job_says_all_the_options_it_runs_with(service: Service, inputs: dict[str, Any]) -> None:
    job = service.post("/v1/jobs", {**inputs, "purifier": {"name": "sage", "options": {"beta": 7}}}, 202)
    assert job["purifier"]["options"] == PURIFIER_OPTIONS["sage"].model_validate({"beta": 7}).model_dump(mode="json")
    options = DETECTOR_OPTIONS["neural_cleanse"]().model_dump(mode="json")
    assert job["detectors"] == [{"name": "neural_cleanse", "options": options}]
    assert job["policy"]["max_asr"] == 0.2


def test_a_job_may_have_all_detectors(service: Service, inputs: dict[str, Any]) -> None:
    job = service.post("/v1/jobs", {**inputs, "detectors": [{"name": name} for name in DETECTOR_OPTIONS]}, 202)
    assert job["detectors"] == [
        {"name": name, "options": options().model_dump(mode="json")} for name, options in DETECTOR_OPTIONS.items()
    ]


@pytest.mark.parametrize(
    ("change", "code", "where"),
    [
        ({"purifier": {"name": "magic"}}, "unknown_method", None),
        ({"detectors": [{"name": "magic"}]}, "unknown_method", None),
        ({"detectors": [{"name": "strip"}, {"name": "strip"}]}, "invalid_request", "body.detectors"),
        ({"purifier": {"name": "sage", "options": {"beta": -1}}}, "invalid_request", "body.purifier.options.beta"),
        ({"purifier": {"name": "sage", "options": {"alpha": 1}}}, "invalid_request", "body.purifier.options.alpha"),
        ({"detectors": [{"name": "neural_cleanse", "options": {"steps": "x"}}]}, "invalid_request", "steps"),
        ({"policy": {"max_asr": 2}}, "invalid_request", "body.policy.max_asr"),
        ({"seed": -1}, "invalid_request", "body.seed"),
        ({"clean": str(uuid4())}, "unknown_reference", None),
        ({"model": str(uuid4())}, "unknown_reference", None),
        ({"triggered": str(uuid4())}, "unknown_reference", None),
        ({"device_class": "h100"}, "unknown_device_class", None),
        ({"device_class": "H100; drop"}, "invalid_request", "body.device_class"),
    ],
)
def test_a_wrong_job_is_refused_before_it_waits(
    service: Service, inputs: dict[str, Any], change: dict[str, Any], code: str, where: str | None
) -> None:
    before = service.http.get("/v1/jobs").json()["items"]
    refused = problem(service.http.post("/v1/jobs", json={**inputs, **change}), 422, code)
    assert where is None or any(error["where"].endswith(where) for error in refused["errors"])
    assert service.http.get("/v1/jobs").json()["items"] == before


def test_bundles_serve_in_their_role_only(service: Service, inputs: dict[str, Any]) -> None:
    triggered = service.bundle("triggered", 0)
    assert service.post("/v1/jobs", {**inputs, "triggered": triggered}, 202)["triggered"] == triggered
    problem(service.http.post("/v1/jobs", json={**inputs, "triggered": inputs["clean"]}), 422, "wrong_kind")
    problem(service.http.post("/v1/jobs", json={**inputs, "clean": triggered}), 422, "wrong_kind")


def test_twenty_submitted_at_once_are_twenty_jobs(service: Service, inputs: dict[str, Any]) -> None:
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda _: service.http.post("/v1/jobs", json=inputs), range(20)))
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.json()["id"] for answer in answers}) == 20


def test_the_list_filters_by_state(service: Service) -> None:
    job = service.job()
    service.change(job, state="running", stage="purify", progress=0.25, attempts=1)
    running = service.http.get("/v1/jobs", params={"state": "running"}).json()["items"]
    assert [(item["id"], item["stage"], item["progress"]) for item in running] == [(str(job), "purify", 0.25)]
    service.change(job, state="failed", error_code="diverged", error_detail="It did.", error_hint="Try again.")
    failed = service.http.get("/v1/jobs", params={"state": "failed"}).json()["items"]
    assert failed[0]["error"] == {"code": "diverged", "detail": "It did.", "hint": "Try again."}
    problem(service.http.get("/v1/jobs", params={"state": "odd"}), 422, "invalid_request")


@pytest.mark.parametrize("state", ["succeeded", "failed", "cancelled"])
def test_waiting_ends_with_the_job(service: Service, state: str) -> None:
    job = service.job()
    threading.Timer(0.4, service.change, (job,), {"state": state, "finished_at": now()}).start()
    began = time.monotonic()
    answer = service.http.get(f"/v1/jobs/{job}", params={"wait": 20}).json()
    assert answer["state"] == state
    assert 0.4 <= time.monotonic() - began < 10


def test_waiting_ends_with_the_time(service: Service) -> None:
    job = service.job()
    began = time.monotonic()
    assert service.http.get(f"/v1/jobs/{job}", params={"wait": 0.7}).json()["state"] == "queued"
    assert 0.7 <= time.monotonic() - began < 10
    for wait in ("-1", "nan", "x"):
        problem(service.http.get(f"/v1/jobs/{job}", params={"wait": wait}), 422, "invalid_request")


def test_waiting_ends_when_the_server_stops(service: Service) -> None:
    job = service.job()
    threading.Timer(0.7, service.parts.stopping.set).start()
    began = time.monotonic()
    try:
        assert service.http.get(f"/v1/jobs/{job}", params={"wait": 30}).json()["state"] == "queued"
    finally:
        service.parts.stopping.clear()
    assert 0.5 < time.monotonic() - began < 10


def test_a_hundred_who_wait_keep_nobody_from_working(service: Service) -> None:
    """More than the threads there are: if a waiting request held one, nothing else would be answered."""
    job = service.job()
    with ThreadPoolExecutor(100) as pool, httpx.Client(limits=httpx.Limits(max_connections=200), timeout=30) as http:
        url, headers = f"{service.url}/v1/jobs/{job}?wait=20", dict(service.http.headers)
        waiting = [pool.submit(http.get, url, headers=headers) for _ in range(100)]
        time.sleep(0.5)
        began = time.monotonic()
        for _ in range(5):
            assert service.http.get("/v1/jobs").status_code == 200
        assert time.monotonic() - began < 3
        service.post(f"/v1/jobs/{job}/cancel", None, 202)
        assert {future.result().json()["state"] for future in waiting} == {"cancelled"}


def test_cancelling_a_queued_job_ends_it(service: Service) -> None:
    job = service.job()
    first = service.post(f"/v1/jobs/{job}/cancel", None, 202)
    assert (first["state"], first["cancel_requested"]) == ("cancelled", True)
    assert first["finished_at"]
    assert service.post(f"/v1/jobs/{job}/cancel", None, 202) == first


def test_cancelling_a_running_job_asks_its_worker(service: Service) -> None:
    job = service.job()
    service.change(job, state="running")
    for _ in range(2):
        answer = service.post(f"/v1/jobs/{job}/cancel", None, 202)
        assert (answer["state"], answer["cancel_requested"]) == ("running", True)


@pytest.mark.parametrize("state", ["succeeded", "failed"])
def test_a_finished_job_cannot_be_cancelled_and_is_left_alone(service: Service, state: str) -> None:
    job = service.job()
    service.change(job, state=state)
    problem(service.http.post(f"/v1/jobs/{job}/cancel"), 409, "job_finished")
    assert service.http.get(f"/v1/jobs/{job}").json()["cancel_requested"] is False


def test_cancelling_nothing(service: Service) -> None:
    problem(service.http.post(f"/v1/jobs/{uuid4()}/cancel"), 404, "not_found")


@pytest.mark.parametrize("state", ["failed", "cancelled"])
def test_an_ended_job_is_tried_again_from_the_start_of_its_count(service: Service, state: str) -> None:
    job = service.job(labels={"commit": "abc"})
    service.change(job, state="running", stage="purify", progress=0.5, attempts=3, dispatched_at=now())
    error = {"error_code": "attempts_exhausted", "error_detail": "It died.", "error_hint": "More memory."}
    service.change(job, state=state, cancel_requested=True, finished_at=now(), **error)
    again = service.post(f"/v1/jobs/{job}/retry", None, 202)
    assert (again["state"], again["stage"], again["progress"], again["attempts"]) == ("queued", None, 0.0, 0)
    assert (again["error"], again["finished_at"], again["cancel_requested"]) == (None, None, False)
    assert again["labels"] == {"commit": "abc"}
    assert service.row(job).dispatched_at is None
    service.change(job, state="succeeded")
    history = service.http.get(f"/v1/jobs/{job}/events").text
    assert [line for line in history.splitlines() if line.startswith("id: ")][-1] == "id: 5"  # past the first end


def test_only_what_failed_or_was_cancelled_is_tried_again(service: Service) -> None:
    job = service.job()
    for state, code in (("queued", "job_not_finished"), ("running", "job_not_finished"), ("succeeded", "job_finished")):
        service.change(job, state=state, attempts=2)
        problem(service.http.post(f"/v1/jobs/{job}/retry"), 409, code)
        assert (service.row(job).state, service.row(job).attempts) == (state, 2)
    problem(service.http.post(f"/v1/jobs/{uuid4()}/retry"), 404, "not_found")


def test_twenty_who_retry_at_once_queue_it_once(service: Service) -> None:
    job = service.job()
    service.change(job, state="failed")
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda _: service.http.post(f"/v1/jobs/{job}/retry"), range(20)))
    assert sorted(answer.status_code for answer in answers) == [202] + [409] * 19
