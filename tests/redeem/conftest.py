"""A real server without its worker: Valkey and the API. What a worker would write is written into the database here."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from uuid import UUID

import pytest

from redeem.assessment import Assessment
from redeem.client import Client
from redeem.contract import Architecture, Job, JobState, Outcome, Policy, Preprocessing
from redeem.jobfile import read_job_file, send_job
from redeem.local.processes import Process
from redeem.local.server import Address, everything, local_server
from redeem.report import CleanSummary, Environment, PurifierSummary, Report, SuspectSummary, Verdict
from service import store
from service.database import open_engine, sessions
from service.settings import Settings
from service.tables import ArtifactRow, JobEventRow, JobRow, now

WEIGHTS = bytes(range(256)) * 20_000  # about 5 MB: several chunks
PREPROCESSING = Preprocessing(size=(32, 32), mean=[0.5, 0.5, 0.5], std=[0.25, 0.25, 0.25])


Processes = Callable[[Path, str, int], Sequence[Process]]


def api_only(folder: Path, host: str, port: int) -> Sequence[Process]:
    return [process for process in everything(folder, host, port) if process.name != "worker"]


@pytest.fixture(scope="session")
def without_worker() -> Processes:
    return api_only


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("server") / "data"


@pytest.fixture(scope="session")
def server(data: Path) -> Iterator[Address]:
    with local_server(data, processes=api_only) as address:
        yield address


@pytest.fixture
def client(server: Address) -> Iterator[Client]:
    with Client(server.url, server.key) as opened:
        yield opened


@pytest.fixture
def environment(server: Address, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a shell on this machine would say, so that commands find the server."""
    monkeypatch.setenv("REDEEM_SERVER", server.url)
    monkeypatch.setenv("REDEEM_DATA", str(data))
    monkeypatch.delenv("REDEEM_API_KEY", raising=False)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder with a job file and what it names."""
    (tmp_path / "suspect.safetensors").write_bytes(b"weights")
    (tmp_path / "clean.zip").write_bytes(b"images")
    job = {
        "model": {
            "file": "suspect.safetensors",
            "architecture": {"name": "paper/resnet18"},
            "preprocessing": PREPROCESSING.model_dump(mode="json"),
        },
        "clean": {"file": "clean.zip"},
        "seed": 7,
    }
    (tmp_path / "job.json").write_text(json.dumps(job))
    return tmp_path


Submit = Callable[[Client], Job]
Complete = Callable[..., None]
Finish = Callable[..., Job]


@pytest.fixture
def submit(files: Path) -> Submit:
    def submitted(client: Client) -> Job:
        return send_job(client, read_job_file(files / "job.json"))

    return submitted


@pytest.fixture
def complete(data: Path) -> Iterator[Complete]:
    """Leaves a job as a worker does."""
    settings = Settings(data=data)
    engine = open_engine(settings)

    def completed(job: UUID, verdict: Outcome | None, state: JobState = JobState.succeeded) -> None:
        report = make_report(job, verdict or Outcome.inconclusive).model_dump_json().encode()
        contents = {
            ("purified.safetensors", "application/octet-stream"): WEIGHTS,
            ("purified.onnx", "application/octet-stream"): b"graph",
            ("report.json", "application/json"): report,
            ("report.html", "text/html; charset=utf-8"): b"<html></html>",
            ("trigger.svg", "image/svg+xml"): b"<svg/>",
        }
        files = store.open_store(settings)
        digests = {name: store.put_bytes(files, content) for name, content in contents.items()}
        with sessions(engine).begin() as session:
            row = session.get_one(JobRow, job)
            row.state, row.verdict, row.finished_at = state, verdict, now()
            if state is JobState.failed:
                row.error_code, row.error_detail, row.error_hint = "bad_weights", "The weights are bad.", "Send others."
            session.add(JobEventRow(job_id=job, seq=2, type="state", state=state, progress=1.0))
            for (name, media_type), digest in digests.items():
                session.add(
                    ArtifactRow(job_id=job, name=name, media_type=media_type, size=digest.size, sha256=digest.sha256)
                )

    yield completed
    engine.dispose()


@pytest.fixture
def finish(client: Client, submit: Submit, complete: Complete) -> Finish:
    """A job at its end."""

    def finished(verdict: Outcome | None = Outcome.passed, state: JobState = JobState.succeeded) -> Job:
        job = submit(client)
        complete(job.id, verdict, state)
        return job

    return finished


def make_report(job: UUID, outcome: Outcome) -> Report:
    after = Assessment(
        mpa=0.8,
        mpa_images=300,
        mpa_per_class=[0.8, 0.8],
        asr=None,
        asr_images=0,
        recovery_accuracy=None,
        surrogate_asr=0.1,
        neural_cleanse=None,
    )
    return Report(
        job=job,
        suspect=SuspectSummary(
            sha256="0" * 64,
            architecture=Architecture(name="paper/resnet18"),
            preprocessing=PREPROCESSING,
            parameters=7,
        ),
        clean=CleanSummary(sha256="1" * 64, images=10, train=6, held_out=2, report=2),
        purifier=PurifierSummary(name="sage", options={}, seed=0, chosen_epoch=1, history=[]),
        before=after.model_copy(update={"mpa": 0.8125}),
        after=after,
        flags=[],
        verdict=Verdict(outcome=outcome, reasons=["MPA fell by 0.0125"], policy=Policy()),
        artifacts=[],
        environment=Environment(redeem="0", torch="0", device="cpu", threads=1, number_format="float32"),
        timings={"purify": 1.5},
    )


def processes_of(marker: str) -> dict[int, str]:
    """Process ids to command lines, of the living processes that have `marker` in their command line or whose working
    folder begins with it."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and int(entry.name) != os.getpid():
            try:
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                folder = os.readlink(entry / "cwd")
                state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
            except OSError:
                continue  # it went meanwhile
            if state != "Z" and (marker in command or folder.startswith(marker)):
                found[int(entry.name)] = command
    return found


@pytest.fixture
def living() -> Callable[[str], dict[int, str]]:
    return processes_of


@pytest.fixture
def kill_api() -> Callable[[Path], None]:
    """`kill -9` of the API that serves a data folder."""

    def kill(folder: Path) -> None:
        (api,) = [number for number, command in processes_of(str(folder)).items() if "uvicorn" in command]
        os.kill(api, signal.SIGKILL)

    return kill
