from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import torch
from obstore.store import ObjectStore
from sqlalchemy import select
from torch import nn

from redeem.contract import Architecture, BundleRole, JobRequest, MethodRequest, Preprocessing, UploadKind, UploadState
from redeem.report import Report
from service import log, records
from service.database import Sessions, open_engine, sessions
from service.settings import Settings
from service.store import get_bytes, open_store, put_bytes
from service.tables import (
    DEFAULT_TENANT,
    ArtifactRow,
    Base,
    BundleRow,
    JobEventRow,
    JobRow,
    ModelRow,
    TenantRow,
    UploadRow,
    now,
)
from service.tenancy import Caller, bound
from tests.worker import lab

# Small tensors: threads that wait for each other cost more than they bring, and on a busy machine ten times as much.
torch.set_num_threads(1)

log.configure()  # as worker.app does; structlog's own tracebacks show locals, and take seconds


@dataclass(frozen=True)
class Workplace:
    """A database file and a store folder as the service leaves them to the worker."""

    settings: Settings
    sessions: Sessions
    store: ObjectStore

    @property
    def client(self) -> Sessions:
        """What a request has."""
        return bound(self.sessions, Caller(DEFAULT_TENANT, "test"))

    def upload(self, kind: UploadKind, content: bytes) -> UUID:
        digest = put_bytes(self.store, content)
        with self.client.begin() as session:
            row = UploadRow(kind=kind, filename="file", state=UploadState.complete, **vars(digest))
            return records.add(session, row).id

    def model(
        self,
        weights: bytes,
        architecture: Architecture = lab.ARCHITECTURE,
        preprocessing: Preprocessing = lab.PREPROCESSING,
    ) -> UUID:
        upload = self.upload(UploadKind.model, weights)
        described = {"architecture": architecture.model_dump(), "preprocessing": preprocessing.model_dump(mode="json")}
        with self.client.begin() as session:
            return records.add(session, ModelRow(upload_id=upload, labels={}, **described)).id

    def bundle(self, content: bytes, target: int | list[int] | None = None) -> UUID:
        upload = self.upload(UploadKind.bundle, content)
        role = BundleRole.clean if target is None else BundleRole.triggered
        with self.client.begin() as session:
            return records.add(session, BundleRow(upload_id=upload, role=role, target=target)).id

    def job(self, model: UUID, clean: UUID, triggered: UUID | None = None, **options: Any) -> UUID:
        """A queued job, small unless `options` says otherwise."""
        options = {
            "purifier": MethodRequest(name="sage", options={"epochs": 2}),
            "detectors": [MethodRequest(name="neural_cleanse", options={"steps": 20, "batch_size": 8})],
            **options,
        }
        with self.client.begin() as session:
            return records.submit(session, JobRequest(model=model, clean=clean, triggered=triggered, **options)).id

    def row(self, job: UUID) -> JobRow:
        with self.sessions() as session:
            return records.find(session, JobRow, job)

    def events(self, job: UUID) -> list[JobEventRow]:
        with self.sessions() as session:
            return records.events_after(session, job, 0, 1000)

    def artifacts(self, job: UUID, *, internal: bool = False) -> dict[str, ArtifactRow]:
        with self.sessions() as session:
            query = select(ArtifactRow).where(ArtifactRow.job_id == job, ArtifactRow.internal.is_(internal))
            return {row.name: row for row in session.scalars(query)}

    def content(self, job: UUID, name: str) -> bytes:
        """An artifact's bytes, which are what the database says they are."""
        row = self.artifacts(job)[name]
        content = get_bytes(self.store, row.sha256)
        assert (len(content), hashlib.sha256(content).hexdigest()) == (row.size, row.sha256)
        return content

    def report(self, job: UUID) -> Report:
        return Report.model_validate_json(self.content(job, "report.json"), strict=True)

    def cancel(self, job: UUID) -> None:
        with self.sessions.begin() as session:
            records.cancel(session, job)

    def bury(self, job: UUID) -> None:
        """The worker of a running job gave no sign of life for a lease: what the dispatcher makes of it."""
        with self.sessions.begin() as session:
            records.change(session, job, lease_expires_at=now() - timedelta(seconds=1))
            assert [row.id for row in records.reap(session, self.settings.max_attempts)] == [job]


@contextlib.contextmanager
def working(settings: Settings) -> Iterator[Workplace]:
    """A workplace in an empty database."""
    engine = open_engine(settings)
    Base.metadata.create_all(engine)
    with sessions(engine).begin() as session:
        session.add(TenantRow(id=DEFAULT_TENANT, name="default"))
    yield Workplace(settings, sessions(engine), open_store(settings))
    engine.dispose()


@pytest.fixture
def workplace(tmp_path: Path, database_url: str) -> Iterator[Workplace]:
    settings = Settings(
        data=tmp_path / "data",
        database_url=database_url,
        lease=timedelta(seconds=5),
        heartbeat=timedelta(seconds=0.05),
        broker_url="",
    )
    with working(settings) as place:
        yield place


@pytest.fixture(scope="session")
def suspect() -> nn.Module:
    return lab.train_suspect()


@pytest.fixture(scope="session")
def weights(suspect: nn.Module) -> bytes:
    return lab.weights_file(suspect)
