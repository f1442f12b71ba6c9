from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import pytest

from service import records
from tests.service.running import wait_until
from tests.worker.conftest import Workplace
from worker import lease
from worker.heartbeat import heartbeat
from worker.lease import Lease, LeaseLost

HANGING = """
import sys, time
from uuid import UUID
import worker.pipeline as pipeline
from service.settings import Settings

def hang(*_):
    print("hangs", flush=True)
    while True:
        time.sleep(1)

pipeline.sanitize = hang
pipeline.run(UUID(sys.argv[1]), Settings())
"""


def never() -> None:
    raise AssertionError("the process was to be ended")


@pytest.fixture
def job(workplace: Workplace) -> UUID:
    return workplace.job(workplace.model(b"weights"), workplace.bundle(b"images"))


def claim(workplace: Workplace, job: UUID, **settings: timedelta) -> Lease:
    held = lease.claim(job, workplace.sessions, workplace.settings.model_copy(update=settings))
    assert held is not None
    return held


def test_it_extends_the_lease_and_ends_with_its_block(workplace: Workplace, job: UUID) -> None:
    held = claim(workplace, job)
    first = workplace.row(job).lease_expires_at
    assert first is not None
    with heartbeat(held, never):
        wait_until(lambda: (workplace.row(job).lease_expires_at or first) > first + timedelta(seconds=0.2))
    assert not [thread for thread in threading.enumerate() if thread.name == "heartbeat"]
    last = workplace.row(job).lease_expires_at
    time.sleep(0.2)
    assert workplace.row(job).lease_expires_at == last


def test_it_learns_that_the_lease_is_lost(workplace: Workplace, job: UUID) -> None:
    held = claim(workplace, job)
    with heartbeat(held, never):
        workplace.bury(job)
        wait_until(held.lost.is_set)
    with pytest.raises(LeaseLost):
        lease.check(held)


def test_a_job_that_outlives_its_lease_is_ended_after_a_grace(workplace: Workplace, job: UUID) -> None:
    held, ended = claim(workplace, job, cancel_grace=timedelta(seconds=0.1)), threading.Event()
    with heartbeat(held, ended.set):
        workplace.bury(job)
        assert ended.wait(10)
    assert workplace.row(job).state == "queued"


def test_a_job_that_does_not_hear_of_its_cancellation_is_ended_after_a_grace(workplace: Workplace, job: UUID) -> None:
    held, ended = claim(workplace, job, cancel_grace=timedelta(seconds=0.3)), threading.Event()
    with heartbeat(held, ended.set):
        began = time.monotonic()
        workplace.cancel(job)
        assert ended.wait(10)
    assert time.monotonic() - began >= 0.3
    assert (workplace.row(job).state, workplace.row(job).lease_token) == ("cancelled", None)


def test_a_job_that_stops_in_time_is_not_ended(workplace: Workplace, job: UUID) -> None:
    held = claim(workplace, job, cancel_grace=timedelta(seconds=30), job_deadline=timedelta(seconds=30))
    with heartbeat(held, never):
        workplace.cancel(job)
        wait_until(held.cancelled.is_set)
    assert workplace.row(job).state == "running"


def test_a_job_past_its_deadline_has_failed(workplace: Workplace, job: UUID) -> None:
    held, ended = claim(workplace, job, job_deadline=timedelta(seconds=0.2)), threading.Event()
    with heartbeat(held, ended.set):
        assert ended.wait(10)
    row = workplace.row(job)
    assert (row.state, row.error_code, row.lease_token) == ("failed", "deadline_exceeded", None)
    assert "REDEEM_JOB_DEADLINE" in (row.error_hint or "")


@pytest.mark.parametrize("why", ["deadline", "cancellation"])
def test_a_process_that_hangs_is_gone_and_its_job_has_ended(
    workplace: Workplace, job: UUID, why: str, tmp_path: Path
) -> None:
    limits = {
        "REDEEM_JOB_DEADLINE": "PT1S" if why == "deadline" else "PT1H",
        "REDEEM_CANCEL_GRACE": "PT0.5S",
        "REDEEM_HEARTBEAT": "PT0.1S",
        "REDEEM_DATA": str(workplace.settings.data),
        "TMPDIR": str(tmp_path),
    }
    hanging = subprocess.Popen(
        [sys.executable, "-c", HANGING, str(job)], env=os.environ | limits, stdout=subprocess.PIPE
    )
    assert hanging.stdout is not None
    assert hanging.stdout.readline() == b"hangs\n"
    if why == "cancellation":
        with workplace.sessions.begin() as session:
            records.cancel(session, job)
    assert hanging.wait(60) == -signal.SIGKILL
    hanging.stdout.close()
    row = workplace.row(job)
    assert (row.state, row.error_code) == (
        ("failed", "deadline_exceeded") if why == "deadline" else ("cancelled", None)
    )
    assert list(tmp_path.glob("redeem-job-*")) == []
