"""A file that a tenant sent before need not be sent again; what others sent changes nothing."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import obstore

from redeem.client import Client
from redeem.contract import BundleRole
from service import store
from tests.service.running import ARCHITECTURE, PREPROCESSING, Service


def fresh() -> tuple[bytes, str]:
    content = os.urandom(1000)
    return content, hashlib.sha256(content).hexdigest()


def announce(service: Service, sha256: str, **more: Any) -> dict[str, Any]:
    body = {"kind": "model", "filename": "again", "sha256": sha256, **more}
    answer: dict[str, Any] = service.post("/v1/uploads", body, 201)
    return answer


def test_a_file_that_is_there_is_complete_at_once(service: Service) -> None:
    content, sha256 = fresh()
    first = service.upload("bundle", content)
    again = announce(service, sha256, size=len(content))
    assert (again["state"], again["size"], again["received"]) == ("complete", len(content), len(content))
    assert (again["kind"], again["filename"], again["sha256"]) == ("model", "again", sha256)
    assert again["id"] != first  # either may be deleted
    assert service.http.head(f"/v1/uploads/{again['id']}/content").headers["upload-complete"] == "?1"
    service.post(
        "/v1/models", {"upload": again["id"], "architecture": ARCHITECTURE, "preprocessing": PREPROCESSING}, 201
    )
    assert service.http.delete(f"/v1/uploads/{first}").status_code == 204
    assert store.get_bytes(service.parts.store, sha256) == content


def test_another_tenant_is_told_nothing(service: Service) -> None:
    content, sha256 = fresh()
    service.upload("model", content)
    with service.as_tenant("stranger") as stranger:
        answer = announce(stranger, sha256)
        unknown = announce(stranger, fresh()[1])
        assert {key: answer[key] for key in ("state", "size", "received")} == {
            key: unknown[key] for key in ("state", "size", "received")
        }
        assert answer["state"] == "open"
        stranger.upload("model", content, sha256=sha256)  # sends it, and then has it
        assert announce(stranger, sha256)["state"] == "complete"


def test_only_what_is_complete_and_in_the_store_counts(service: Service) -> None:
    content, sha256 = fresh()
    assert announce(service, sha256)["state"] == "open"
    assert announce(service, sha256)["state"] == "open"  # announced before, but never sent
    service.upload("model", content)
    assert announce(service, sha256, size=len(content) + 1)["state"] == "open"  # it contradicts itself
    obstore.delete(service.parts.store, store.blob_key(sha256))
    assert announce(service, sha256)["state"] == "open"
    service.upload("model", content, sha256=sha256)
    assert store.get_bytes(service.parts.store, sha256) == content


def test_the_client_does_not_send_it_again(service: Service, tmp_path: Path) -> None:
    content, _ = fresh()
    (tmp_path / "clean.zip").write_bytes(content)
    key = service.http.headers["authorization"].removeprefix("Bearer ")
    steps: list[int] = []
    with Client(service.url, key) as client:
        first = client.upload_bundle(tmp_path / "clean.zip", BundleRole.clean)
        again = client.upload_bundle(tmp_path / "clean.zip", BundleRole.clean, advance=steps.append)
    assert (again.sha256, again.size) == (first.sha256, first.size)
    assert steps == [len(content)]
