"""Workers that die by `kill -9` at points that the test chooses, where test_chaos.py lets chance choose: at the
beginning and the end of every stage, between a file and the row that names it, and around the transaction that ends the
job."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID

import pytest

from benchmarks.servers import with_worker
from redeem.client import Client
from redeem.contract import JobState, Stage
from redeem.local import local_server
from service import database
from service.settings import Settings
from tests.e2e.deaths import PARENT, POISON
from tests.e2e.sending import sent
from tests.e2e.stored import check_that_the_store_holds_what_is_named
from worker.stages.checkpoints import CHECKPOINT

KEPT = [Stage.assess_before, CHECKPOINT, Stage.purify, Stage.assess_after]
EVERY = [
    *(f"{stage} has begun" for stage in Stage),
    *(f"{stage} is done" for stage in Stage if stage not in KEPT),  # what is kept is done once it is named
    *(f"{name} {when}" for name in KEPT for when in ("is written and not yet named", "is named")),
    f"{Stage.purify} has begun{PARENT}",
    f"{Stage.publish} has begun{PARENT}",
    "the end is not yet written",
    "the end is written",
]
A_FEW = [f"{CHECKPOINT} is named{PARENT}", "the end is not yet written"]


@contextmanager
def _server(data: Path) -> Iterator[Client]:
    dying = with_worker("tests.e2e.dying_worker")
    with local_server(data, processes=dying) as server, Client(server.url, server.key) as client:
        yield client


@pytest.mark.parametrize(
    "points", [pytest.param(A_FEW, id="a few"), pytest.param(EVERY, id="every", marks=pytest.mark.slow)]
)
def test_a_job_outlives_its_worker_wherever_it_dies(
    points: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"MAX_ATTEMPTS": "1000", "CHECKPOINT": "PT0S", "BLOB_GRACE": "PT0S"}.items():
        monkeypatch.setenv(f"REDEEM_{name}", value)
    settings = Settings(data=folder / "data", database_url="")
    with _server(settings.data) as client:
        order = sent(client, folder, epochs=2)
        in_peace = client.wait(client.submit(order).id, timeout=300)
        assert (in_peace.state, in_peace.attempts) == (JobState.succeeded, 1), in_peace.error
        deaths = settings.data / "deaths"
        deaths.write_text("".join(f"{point}\n" for point in points))
        job = client.wait(client.submit(order).id, timeout=60 + 60 * len(points))
        assert job.state is JobState.succeeded, job.error
        assert deaths.read_text() == "", "not every point was reached"
        assert job.attempts == 1 + len(set(points) - {"the end is written"})
        states = [event.state for event in client.events(job.id) if event.type == "state"]
        assert states == [JobState.queued, JobState.running] * job.attempts + [JobState.succeeded]
        assert _published(client, job.id) == _published(client, in_peace.id)
    engine = database.open_engine(settings)
    check_that_the_store_holds_what_is_named(settings, engine)
    engine.dispose()


def _published(client: Client, job: UUID) -> dict[str, str]:
    """Names to hashes of weights and pictures: the rest tells of its job and of the time."""
    artifacts = client.artifacts(job)
    return {each.name: each.sha256 for each in artifacts if each.name.endswith((".safetensors", ".svg", ".png"))}


def test_a_job_that_kills_its_workers_ends_and_the_next_one_runs(folder: Path) -> None:
    with _server(folder / "data") as client:
        order = sent(client, folder, epochs=1).model_copy(update={"detectors": []})
        poison = client.submit(order.model_copy(update={"seed": POISON}))
        after_it = client.submit(order)
        ended = client.wait(poison.id, timeout=300)
        assert (ended.state, ended.attempts) == (JobState.failed, 3)
        assert ended.error is not None
        assert ended.error.code == "attempts_exhausted"
        ended = client.wait(after_it.id, timeout=300)
        assert (ended.state, ended.attempts) == (JobState.succeeded, 1), ended.error
