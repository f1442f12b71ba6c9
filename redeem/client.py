"""The client of the REST interface: what a pipeline imports, and what the command line is made of.

with Client("http://127.0.0.1:8642", key) as client:
    model = client.upload_model(path, architecture, preprocessing)
    clean = client.upload_bundle(images, BundleRole.clean)
    job = client.wait(client.submit(JobRequest(model=model.id, clean=clean.id)).id)
    client.download_weights(job.id, target)
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar
from uuid import UUID

import httpx
from pydantic import BaseModel, TypeAdapter

from redeem import transfer
from redeem.architectures import PURIFIED_GRAPH
from redeem.attestation import PROVENANCE, PublicKeys
from redeem.contract import (
    Architecture,
    Bundle,
    BundleRequest,
    BundleRole,
    Job,
    JobEvent,
    JobRequest,
    Model,
    ModelRequest,
    Page,
    Preprocessing,
    Upload,
    UploadKind,
    UploadRequest,
    UploadState,
)
from redeem.errors import RedeemError, Unreachable
from redeem.http import connect, new_idempotency_key, request, stream
from redeem.report import Artifact, Report
from redeem.transfer import Advance, ignore
from redeem.webhooks import Webhook, WebhookRequest, WebhookSecret

Answer = TypeVar("Answer", bound=BaseModel)
LONG_POLL = 30.0  # seconds
OUTAGE = 60.0  # seconds that a server may be away while somebody waits for a job


class Client:
    """Talks to one server with one API key. Every method raises a RedeemError when it cannot do its work: ServerProblem
    with the server's own code and hint, or Unreachable once repeating did not help. What is safe to repeat is repeated.
    """

    def __init__(self, server: str, key: str) -> None:
        self._http = connect(server, key)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    # Send ---------------------------------------------------------------------------------------------------------

    def upload_model(
        self,
        path: Path,
        architecture: Architecture,
        preprocessing: Preprocessing,
        labels: dict[str, str] | None = None,
        advance: Advance = ignore,
    ) -> Model:
        """Upload weights and say what they are. `advance` is called with the bytes of each chunk that went out."""
        upload = self._upload(path, UploadKind.model, advance)
        return self.create_model(
            ModelRequest(upload=upload.id, architecture=architecture, preprocessing=preprocessing, labels=labels or {})
        )

    def upload_bundle(
        self, path: Path, role: BundleRole, target: int | list[int] | None = None, advance: Advance = ignore
    ) -> Bundle:
        """Upload images. `target` is the label that the trigger brings about; it belongs to triggered images only."""
        upload = self._upload(path, UploadKind.bundle, advance)
        return self.create_bundle(BundleRequest(upload=upload.id, role=role, target=target))

    def create_model(self, model: ModelRequest) -> Model:
        return self._create("/v1/models", model, Model)

    def create_bundle(self, bundle: BundleRequest) -> Bundle:
        return self._create("/v1/bundles", bundle, Bundle)

    def submit(self, job: JobRequest) -> Job:
        return self._create("/v1/jobs", job, Job)

    def create_webhook(self, webhook: WebhookRequest) -> WebhookSecret:
        """Have an endpoint told of the ends of jobs. Keep the secret: it is not told again."""
        return self._create("/v1/webhooks", webhook, WebhookSecret)

    def webhooks(self) -> Iterator[Webhook]:
        """All endpoints, newest first."""
        return self._pages("/v1/webhooks", Webhook)

    def _upload(self, path: Path, kind: UploadKind, advance: Advance) -> Upload:
        size, sha256 = transfer.digest(path)
        opening = UploadRequest(kind=kind, filename=path.name, size=size, sha256=sha256)
        upload = self._create("/v1/uploads", opening, Upload)
        if upload.state is UploadState.complete:  # the server has these bytes from before
            advance(size)
        else:
            transfer.send(self._http, f"/v1/uploads/{upload.id}/content", path, size, advance)
        return upload

    def _create(self, path: str, body: BaseModel, answer: type[Answer]) -> Answer:
        headers = {"Idempotency-Key": new_idempotency_key()}
        response = request(self._http, "POST", path, headers=headers, json=body.model_dump(mode="json"))
        return answer.model_validate(response.json())

    # Follow -------------------------------------------------------------------------------------------------------

    def get(self, job: UUID) -> Job:
        return Job.model_validate(self._get(f"/v1/jobs/{job}"))

    def jobs(self, limit: int = 50) -> Iterator[Job]:
        """Jobs, newest first, at most `limit` of them."""
        return islice(self._pages("/v1/jobs", Job, min(limit, 100)), limit)

    def wait(self, job: UUID, timeout: float | None = None) -> Job:
        """Block until the job is at its end, or for `timeout` seconds; returns it as it is then. It survives a server
        that restarts meanwhile."""
        deadline = math.inf if timeout is None else time.monotonic() + timeout
        while True:
            seconds = max(0.0, min(LONG_POLL, deadline - time.monotonic()))
            current = self._outlasting(job, {"wait": seconds})
            if current.state.terminal or time.monotonic() >= deadline:
                return current

    def events(self, job: UUID, after: int | None = None) -> Iterator[JobEvent]:
        """The history of a job as it happens, from its first event (or the one after `after`) to its end. A broken
        connection is taken up again where it broke."""
        while True:
            # Asked before: a history that is complete when the job was at its end already is the whole of it.
            ended = self._outlasting(job).state.terminal
            headers = {"Accept": "text/event-stream"} | ({} if after is None else {"Last-Event-ID": str(after)})
            with (
                suppress(httpx.TransportError),
                stream(self._http, "GET", f"/v1/jobs/{job}/events", headers=headers) as response,
            ):
                for event in _parse_events(response.iter_lines()):
                    # An end in the middle is that of an attempt: the job was tried again.
                    after, ended = event.seq, event.state.terminal
                    yield event
                if ended:
                    return
            time.sleep(1.0)

    def _outlasting(self, job: UUID, query: dict[str, Any] | None = None) -> Job:
        """The job, from a server that may be away for a while: who waits for hours does not mind a restart."""
        deadline = time.monotonic() + OUTAGE
        while True:
            try:
                return Job.model_validate(self._get(f"/v1/jobs/{job}", query))
            except Unreachable:
                if time.monotonic() >= deadline:
                    raise
                time.sleep(1.0)

    def cancel(self, job: UUID) -> Job:
        """Ask for a stop. A running job ends a moment later: `wait` tells."""
        return Job.model_validate(request(self._http, "POST", f"/v1/jobs/{job}/cancel", repeat=True).json())

    def retry(self, job: UUID) -> Job:
        """Queue a job again that failed or was cancelled."""
        return Job.model_validate(request(self._http, "POST", f"/v1/jobs/{job}/retry").json())

    # Forget -------------------------------------------------------------------------------------------------------

    def delete_job(self, job: UUID) -> None:
        """A job that has ended, its report and its files."""
        request(self._http, "DELETE", f"/v1/jobs/{job}")

    def delete_model(self, model: UUID) -> None:
        """A model that no job names."""
        request(self._http, "DELETE", f"/v1/models/{model}")

    def delete_bundle(self, bundle: UUID) -> None:
        """A bundle that no job names."""
        request(self._http, "DELETE", f"/v1/bundles/{bundle}")

    def delete_upload(self, upload: UUID) -> None:
        """An upload that no model and no bundle is made of."""
        request(self._http, "DELETE", f"/v1/uploads/{upload}")

    # Take ---------------------------------------------------------------------------------------------------------

    def report(self, job: UUID) -> Report:
        return Report.model_validate(self._get(f"/v1/jobs/{job}/report"))

    def artifacts(self, job: UUID) -> list[Artifact]:
        return TypeAdapter(list[Artifact]).validate_python(self._get(f"/v1/jobs/{job}/artifacts"))

    def download_weights(self, job: UUID, target: Path, advance: Advance = ignore) -> Path:
        """The purified weights; where `target` ends in `.onnx`, the purified graph of a suspect that came as one.
        `target` appears whole and with the right hash, or not at all."""
        what = f"artifacts/{PURIFIED_GRAPH}" if target.suffix == ".onnx" else "weights"
        return transfer.receive(self._http, f"/v1/jobs/{job}/{what}", target, advance=advance)

    def download_provenance(self, job: UUID, target: Path) -> Path:
        """What the server attests of the job, signed: `redeem.verification` checks it."""
        return transfer.receive(self._http, f"/v1/jobs/{job}/artifacts/{PROVENANCE}", target)

    def keys(self) -> PublicKeys:
        """The public keys that this server signs with, the retired ones too."""
        return PublicKeys.model_validate(self._get("/v1/keys"))

    def download(self, job: UUID, artifact: Artifact, target: Path, advance: Advance = ignore) -> Path:
        return transfer.receive(
            self._http, f"/v1/jobs/{job}/artifacts/{artifact.name}", target, sha256=artifact.sha256, advance=advance
        )

    def download_report(self, job: UUID, target: Path, media_type: str = "application/json") -> Path:
        """The report as the server wrote it: `application/json` or `text/html`."""
        response = request(self._http, "GET", f"/v1/jobs/{job}/report", headers={"Accept": media_type})
        if not response.headers.get("Content-Type", "").startswith(media_type):
            raise RedeemError(
                "media_type_missing", f"This server gives no report as {media_type}.", "Take it as application/json."
            )
        return transfer.write(target, response.content)

    def _pages(self, path: str, item: type[Answer], size: int = 100) -> Iterator[Answer]:
        """Everything of a list, a page at a time."""
        cursor: str | None = None
        while True:
            query = {"limit": size} | ({"cursor": cursor} if cursor else {})
            page = Page[item].model_validate(self._get(path, query))  # type: ignore[valid-type]
            yield from page.items
            if (cursor := page.next_cursor) is None:
                return

    def _get(self, path: str, query: dict[str, Any] | None = None) -> Any:
        return request(self._http, "GET", path, params=query).json()


def _parse_events(lines: Iterator[str]) -> Iterator[JobEvent]:
    """Server-sent events: `data:` lines up to a blank one. Comments (pings) and other fields are passed over; the id is
    the `seq` in the data."""
    data: list[str] = []
    for line in lines:
        if line.startswith("data:"):
            data.append(line[5:].strip())
        elif not line and data:
            yield JobEvent.model_validate_json("\n".join(data))
            data = []
