"""What the service signs about a job, taken over HTTP and checked as a receiver would."""

from __future__ import annotations

import json
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from redeem.attestation import BOM, PROVENANCE, Statement
from redeem.contract import Outcome
from redeem.errors import NotGenuine
from redeem.verification import check_subject, check_suspect, read_keys, verify
from service import signing
from service.settings import Settings
from service.tables import now
from tests.redeem.conftest import make_report
from tests.service.running import Service, serving


def finished(service: Service, **more: Any) -> UUID:
    """A job as a worker leaves it."""
    job = service.job(seed=7, **more)
    service.artifact(job, "purified.safetensors", f"purified by {job}".encode())
    service.artifact(job, "report.json", make_report(job, Outcome.passed).model_dump_json().encode())
    service.artifact(job, "stage-purify", b"for the worker", internal=True)
    service.change(job, state="succeeded", verdict="pass", started_at=now(), finished_at=now())
    return job


def taken(service: Service, job: UUID, name: str, folder: Path) -> Path:
    answer = service.http.get(f"/v1/jobs/{job}/artifacts/{name}")
    assert answer.status_code == 200, answer.text
    (folder / name).write_bytes(answer.content)
    return folder / name


def checked(service: Service, job: UUID, folder: Path) -> Statement:
    (folder / "keys.json").write_bytes(service.http.get("/v1/keys").content)
    return verify(taken(service, job, PROVENANCE, folder), read_keys(folder / "keys.json"))


def test_what_comes_out_is_what_is_attested(service: Service, tmp_path: Path) -> None:
    job = finished(service, triggered=service.bundle("triggered", target=3))
    statement = checked(service, job, tmp_path)
    for name in ("purified.safetensors", "report.json", BOM):
        check_subject(statement, taken(service, job, name, tmp_path))
    assert {file.name for file in statement.subject} == {"purified.safetensors", "report.json", BOM}
    (tmp_path / "suspect").write_bytes(b"bytes")
    check_suspect(statement, tmp_path / "suspect")
    definition = statement.predicate.build_definition
    assert [file.name for file in definition.resolved_dependencies] == ["suspect", "clean", "triggered"]
    assert (definition.external_parameters.seed, definition.external_parameters.target) == (7, 3)
    assert definition.external_parameters.purifier.options["beta"] > 0
    assert statement.predicate.verdict.outcome == Outcome.passed
    assert statement.predicate.run_details.metadata.invocation_id == f"urn:uuid:{job}"


def test_the_payload_is_a_statement_as_the_specifications_write_it(service: Service, tmp_path: Path) -> None:
    job = finished(service)
    lines = taken(service, job, PROVENANCE, tmp_path).read_text().splitlines()
    assert len(lines) == 1
    assert json.loads(lines[0])["payloadType"] == "application/vnd.in-toto+json"
    content = json.loads(checked(service, job, tmp_path).model_dump_json())
    assert content["_type"] == "https://in-toto.io/Statement/v1"
    assert content["predicateType"] == "https://slsa.dev/provenance/v1"
    assert content["predicate"].keys() == {"buildDefinition", "runDetails", "redeem_verdict"}
    assert content["predicate"]["runDetails"]["builder"]["id"] == "urn:redeem:server"
    assert "startedOn" in content["predicate"]["runDetails"]["metadata"]


def test_the_bill_of_materials_is_valid_and_names_the_ancestor(service: Service, tmp_path: Path) -> None:
    job = finished(service)
    text = taken(service, job, BOM, tmp_path).read_text()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    model = json.loads(text)["metadata"]["component"]
    hashes = {file.name: file.digest.sha256 for file in checked(service, job, tmp_path).subject}
    assert model["type"] == "machine-learning-model"
    assert model["hashes"] == [{"alg": "SHA-256", "content": hashes["purified.safetensors"]}]
    (ancestor,) = model["pedigree"]["ancestors"]
    suspect = checked(service, job, tmp_path).dependency("suspect")
    assert ancestor["hashes"] == [{"alg": "SHA-256", "content": suspect}]
    metrics = model["modelCard"]["quantitativeAnalysis"]["performanceMetrics"]
    assert {"type": "MPA", "value": "0.800000", "slice": "purified"} in metrics
    assert not any(metric["type"] == "ASR" for metric in metrics)  # it was not measured


def test_everybody_who_looks_first_finds_one_and_the_same(service: Service) -> None:
    job = finished(service)
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: service.http.get(f"/v1/jobs/{job}/artifacts").json(), range(4)))
    assert len({json.dumps(answer) for answer in answers}) == 1
    assert {item["name"] for item in answers[0]} == {"purified.safetensors", "report.json", BOM, PROVENANCE}


def test_a_job_whose_report_cannot_be_read_still_gives_its_files(service: Service) -> None:
    job = service.job()
    service.artifact(job, "purified.safetensors", b"weights")
    service.artifact(job, "report.json", b"{}")
    service.change(job, state="succeeded", finished_at=now())
    assert [item["name"] for item in service.http.get(f"/v1/jobs/{job}/artifacts").json()] == [
        "purified.safetensors",
        "report.json",
    ]


def test_a_rotated_key_keeps_what_was_signed_good(settings: Settings, tmp_path: Path) -> None:
    with serving(settings) as service:
        before = finished(service)
        assert checked(service, before, tmp_path)
        file = settings.signing_key_file
        old_key, (old,) = file.read_bytes(), service.http.get("/v1/keys").json()["keys"]
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        new = signing.rotate(settings, service.parts.sessions)
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        keys = service.http.get("/v1/keys").json()["keys"]
        assert [(key["kid"], key["retired_at"] is None) for key in keys] == [(new.kid, True), (old["kid"], False)]
        after = finished(service)
        assert checked(service, before, tmp_path)
        assert checked(service, after, tmp_path)
        assert new.kid in (tmp_path / PROVENANCE).read_text()
    file.write_bytes(old_key)  # as a backup would bring it back
    with serving(settings) as service:
        assert file.read_bytes() != old_key
        assert len(service.http.get("/v1/keys").json()["keys"]) == 3


def test_a_restart_keeps_the_key(settings: Settings, tmp_path: Path) -> None:
    with serving(settings) as service:
        keys = service.http.get("/v1/keys").json()
        job = finished(service)
        statement = checked(service, job, tmp_path)
    with serving(settings) as service:
        assert service.http.get("/v1/keys").json() == keys
        (tmp_path / "other").write_bytes(b"other")
        with pytest.raises(NotGenuine):
            check_subject(statement, tmp_path / "other")
