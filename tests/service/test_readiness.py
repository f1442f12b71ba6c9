from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from service import readiness
from service.settings import Settings
from tests.service.running import serving


def test_however_many_ask_there_is_one_look_at_a_time_and_others_are_answered(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks, at_once, lock = list[int](), list[None](), threading.Lock()

    def slow(_: object) -> readiness.Checks:
        with lock:
            at_once.append(None)
            looks.append(len(at_once))
        time.sleep(0.5)
        with lock:
            at_once.pop()
        return dict.fromkeys(("database", "migrations", "store", "broker"), "ok")

    monkeypatch.setattr(readiness, "checks", slow)
    with serving(settings) as service, ThreadPoolExecutor(80) as pool:
        answers = [pool.submit(httpx.get, f"{service.url}/readyz", timeout=30) for _ in range(80)]
        time.sleep(0.2)
        began = time.monotonic()
        assert service.http.get("/v1/jobs").status_code == 200
        assert time.monotonic() - began < 5
        assert {answer.result().json()["status"] for answer in answers} == {"ok"}
    assert max(looks) == 1
    assert len(looks) < 20


def test_nobody_gets_what_a_look_found_that_began_before_he_asked(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on = threading.Semaphore(0), threading.Semaphore(0)
    there = {"database": "ok", "migrations": "ok", "store": "failed", "broker": "ok"}

    def looking(_: object) -> readiness.Checks:
        found = dict(there)
        begun.release()
        go_on.acquire()
        return found

    monkeypatch.setattr(readiness, "checks", looking)
    with serving(settings) as service, ThreadPoolExecutor(2) as pool:
        early = pool.submit(httpx.get, f"{service.url}/readyz", timeout=30)
        assert begun.acquire(timeout=30)
        there["store"] = "ok"
        late = pool.submit(httpx.get, f"{service.url}/readyz", timeout=30)
        go_on.release(2)
        assert early.result().status_code == 503
        assert late.result().status_code == 200


def test_who_goes_away_takes_the_look_from_nobody(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    go_on = threading.Event()

    def looking(_: object) -> readiness.Checks:
        go_on.wait(30)
        return dict.fromkeys(("database", "migrations", "store", "broker"), "ok")

    monkeypatch.setattr(readiness, "checks", looking)
    with serving(settings) as service, ThreadPoolExecutor(1) as pool:
        for _ in range(2):  # of the look that runs, and of the next
            with pytest.raises(httpx.ReadTimeout):
                httpx.get(f"{service.url}/readyz", timeout=0.3)
        staying = pool.submit(httpx.get, f"{service.url}/readyz", timeout=30)
        time.sleep(0.3)
        go_on.set()
        assert staying.result().json()["status"] == "ok"
