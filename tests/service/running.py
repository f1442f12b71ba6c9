"""A real server on a free loopback port, in a thread, with everything beneath it but a worker."""

from __future__ import annotations

import contextlib
import hashlib
import mimetypes
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import httpx
import uvicorn
from sqlalchemy import select

from redeem.access import Scope
from service import database, keys, migrate, records, store
from service.app import create_app
from service.context import Context
from service.settings import Settings
from service.tables import ArtifactRow, JobRow, TenantRow, new_id

PREPROCESSING = {"size": [32, 32], "mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]}
ARCHITECTURE = {"name": "paper/resnet18", "num_classes": 10}


@dataclass(frozen=True)
class Service:
    """A running server, a client with its key, and the parts beneath, to do by hand what a worker would do."""

    url: str
    http: httpx.Client
    parts: Context

    def key(self, tenant: str = "default", scopes: Iterable[Scope] = Scope, **more: Any) -> str:
        """A new key of a tenant, which is made where there is none of that name."""
        with self.parts.sessions.begin() as session:
            row = session.scalar(select(TenantRow).where(TenantRow.name == tenant))
            if row is None:
                row = TenantRow(id=new_id(), name=tenant)
                session.add(row)
                session.flush()
            return keys.create(session, row.id, "test", scopes, **more)[1]

    @contextlib.contextmanager
    def as_tenant(self, tenant: str) -> Iterator[Service]:
        """The same server, called with another tenant's key."""
        headers = {"Authorization": f"Bearer {self.key(tenant)}"}
        with httpx.Client(base_url=self.url, headers=headers, timeout=30) as http:
            yield Service(self.url, http, self.parts)

    def upload(self, kind: str, content: bytes = b"bytes", **announced: Any) -> str:
        opened = self.http.post("/v1/uploads", json={"kind": kind, "filename": "file", **announced})
        assert opened.status_code == 201, opened.text
        put = self.http.put(f"/v1/uploads/{opened.json()['id']}/content", content=content)
        assert put.status_code == 200, put.text
        return str(put.json()["id"])

    def model(self) -> str:
        body = {"upload": self.upload("model"), "architecture": ARCHITECTURE, "preprocessing": PREPROCESSING}
        return str(self.post("/v1/models", body, 201)["id"])

    def bundle(self, role: str = "clean", target: int | None = None) -> str:
        body = {"upload": self.upload("bundle"), "role": role, "target": target}
        return str(self.post("/v1/bundles", body, 201)["id"])

    def job(self, **more: Any) -> UUID:
        return UUID(self.post("/v1/jobs", {"model": self.model(), "clean": self.bundle(), **more}, 202)["id"])

    def post(self, path: str, body: Any, status: int) -> Any:
        answer = self.http.post(path, json=body)
        assert answer.status_code == status, answer.text
        return answer.json()

    def change(self, job: UUID, **values: Any) -> None:
        """What a worker writes."""
        with self.parts.sessions.begin() as session:
            row = records.change(session, job, **values)
            assert row is not None
            records.add_event(session, row, "state" if "state" in values else "progress")

    def artifact(self, job: UUID, name: str, content: bytes, *, internal: bool = False) -> str:
        digest = store.put_bytes(self.parts.store, content)
        with self.parts.sessions.begin() as session:
            session.add(
                ArtifactRow(
                    job_id=job,
                    name=name,
                    media_type=mimetypes.guess_type(name)[0] or "application/octet-stream",
                    size=digest.size,
                    sha256=digest.sha256,
                    internal=internal,
                )
            )
        return hashlib.sha256(content).hexdigest()

    def row(self, job: UUID) -> JobRow:
        with self.parts.readers() as session:
            return records.find(session, JobRow, job)


def wait_until(true: Any, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not come about in time"
        time.sleep(0.02)


def problem(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """An error as it must look, whatever caused it."""
    assert answer.headers["content-type"] == "application/problem+json", answer.text
    body: dict[str, Any] = answer.json()
    assert (answer.status_code, body["status"], body["code"]) == (status, status, code), body
    assert body["title"]
    assert body["detail"]
    assert body["hint"]
    assert body["request_id"] == answer.headers["x-request-id"]
    return body


@contextlib.contextmanager
def serving(settings: Settings) -> Iterator[Service]:
    if settings.database_url:
        migrated = database.open_engine(settings)
        migrate.upgrade(migrated)  # what an operator does before
        migrated.dispose()
    app = create_app(settings)
    config = uvicorn.Config(app, host="127.0.0.1", port=0, log_level="critical", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        wait_until(lambda: server.started or not thread.is_alive())
        port = server.servers[0].sockets[0].getsockname()[1]
        url = f"http://127.0.0.1:{port}"
        key = settings.key_file.read_text().strip()
        with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=30) as http:
            yield Service(url, http, app.state.context)
    finally:
        server.should_exit = True
        thread.join(10)
