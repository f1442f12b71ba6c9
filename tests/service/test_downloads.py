from __future__ import annotations

import base64
import hashlib
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service import store
from service.errors import RangeNotSatisfiable
from service.routes.downloads import parse_range
from tests.service.running import Service, problem

WEIGHTS = bytes(range(256)) * 10_000


@pytest.fixture(scope="module")
def done(service: Service) -> UUID:
    job = service.job()
    service.artifact(job, "purified.safetensors", WEIGHTS)
    service.artifact(job, "report.json", b'{"verdict": "pass"}')
    service.artifact(job, "empty.txt", b"")
    service.artifact(job, "stage-purify", b"for the worker", internal=True)
    service.change(job, state="succeeded")
    return job


def test_the_weights_come_whole_with_their_hash(service: Service, done: UUID) -> None:
    answer = service.http.get(f"/v1/jobs/{done}/weights")
    sha256 = hashlib.sha256(WEIGHTS)
    assert answer.status_code == 200
    assert answer.content == WEIGHTS
    assert answer.headers["etag"] == f'"sha256:{sha256.hexdigest()}"'
    assert answer.headers["repr-digest"] == f"sha-256=:{base64.b64encode(sha256.digest()).decode()}:"
    assert answer.headers["content-length"] == str(len(WEIGHTS))
    assert "purified.safetensors" in answer.headers["content-disposition"]
    assert answer.headers["content-disposition"].startswith("attachment")


def test_artifacts_are_listed_and_internal_ones_are_not_there(service: Service, done: UUID) -> None:
    listed = service.http.get(f"/v1/jobs/{done}/artifacts").json()
    assert [item["name"] for item in listed] == ["empty.txt", "purified.safetensors", "report.json"]
    assert listed[1]["sha256"] == hashlib.sha256(WEIGHTS).hexdigest()
    assert service.http.get(f"/v1/jobs/{done}/artifacts/report.json").content == b'{"verdict": "pass"}'
    assert service.http.get(f"/v1/jobs/{done}/artifacts/empty.txt").content == b""
    for name in ("stage-purify", "nothing", "%00", "x" * 5000):
        problem(service.http.get(f"/v1/jobs/{done}/artifacts/{name}"), 404, "no_artifact")


@pytest.mark.parametrize(
    ("asked", "start", "end"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=100-199", 100, 200),
        ("bytes=2559990-", 2_559_990, 2_560_000),
        ("bytes=-10", 2_559_990, 2_560_000),
        ("bytes=-99999999", 0, 2_560_000),
        ("bytes=5-99999999", 5, 2_560_000),
    ],
)
def test_a_part_of_the_weights(service: Service, done: UUID, asked: str, start: int, end: int) -> None:
    answer = service.http.get(f"/v1/jobs/{done}/weights", headers={"Range": asked})
    assert answer.status_code == 206
    assert answer.content == WEIGHTS[start:end]
    assert answer.headers["content-range"] == f"bytes {start}-{end - 1}/{len(WEIGHTS)}"


@pytest.mark.parametrize("asked", ["bytes=2560000-", "bytes=-0", "bytes=9999999-99999999"])
def test_a_part_outside_is_refused(service: Service, done: UUID, asked: str) -> None:
    answer = service.http.get(f"/v1/jobs/{done}/weights", headers={"Range": asked})
    problem(answer, 416, "range_not_satisfiable")
    assert answer.headers["content-range"] == f"bytes */{len(WEIGHTS)}"


@pytest.mark.parametrize("asked", ["bytes=5-4", "bytes=", "bytes=-", "lines=0-1", "bytes=0-1,5-6", "bytes=x-y", "0-1"])
def test_what_is_no_single_range_gives_the_whole(service: Service, done: UUID, asked: str) -> None:
    answer = service.http.get(f"/v1/jobs/{done}/weights", headers={"Range": asked})
    assert (answer.status_code, len(answer.content)) == (200, len(WEIGHTS))


@given(st.text(max_size=30), st.integers(0, 50))
def test_no_range_header_reaches_outside_the_file(text: str, size: int) -> None:
    try:
        part = parse_range(f"bytes={text}", size)
    except RangeNotSatisfiable:
        return
    assert part is None or 0 <= part[0] < part[1] <= size


def test_a_resumed_download_goes_on_only_with_the_same_file(service: Service, done: UUID) -> None:
    etag = service.http.get(f"/v1/jobs/{done}/weights").headers["etag"]
    for if_range, status in ((etag, 206), ('"another"', 200), (f"W/{etag}", 200)):
        headers = {"Range": "bytes=10-", "If-Range": if_range}
        assert service.http.get(f"/v1/jobs/{done}/weights", headers=headers).status_code == status


def test_what_the_client_has_is_not_sent_again(service: Service, done: UUID) -> None:
    etag = service.http.get(f"/v1/jobs/{done}/weights").headers["etag"]
    for known, status in ((etag, 304), (f'"x", W/{etag}', 304), ("*", 304), ('"x"', 200)):
        answer = service.http.get(f"/v1/jobs/{done}/weights", headers={"If-None-Match": known})
        assert answer.status_code == status
        assert answer.headers["etag"] == etag
        assert bool(answer.content) == (status == 200)


def test_head_tells_of_a_file_what_get_would(service: Service, done: UUID) -> None:
    for path in ("weights", "artifacts/report.json"):
        told, got = (service.http.request(method, f"/v1/jobs/{done}/{path}") for method in ("HEAD", "GET"))
        assert (told.status_code, told.content) == (200, b"")
        for header in ("content-length", "content-type", "etag", "repr-digest", "accept-ranges"):
            assert told.headers[header] == got.headers[header]


def test_a_known_report_is_not_sent_again(service: Service, done: UUID) -> None:
    etag = service.http.get(f"/v1/jobs/{done}/report").headers["etag"]
    answer = service.http.get(f"/v1/jobs/{done}/report", headers={"If-None-Match": etag})
    assert (answer.status_code, answer.content, answer.headers["etag"]) == (304, b"", etag)


def test_a_lost_blob_is_told_before_the_download_begins(service: Service) -> None:
    job = service.job()
    sha256 = service.artifact(job, "purified.safetensors", b"soon gone")
    service.change(job, state="succeeded")
    (service.parts.settings.store / store.blob_key(sha256)).unlink()
    problem(service.http.get(f"/v1/jobs/{job}/weights"), 500, "artifact_lost")


@pytest.mark.parametrize("path", ["weights", "report", "artifacts/purified.safetensors"])
def test_files_come_only_from_a_job_that_succeeded(service: Service, path: str) -> None:
    job = service.job()
    service.artifact(job, "purified.safetensors", b"half done")
    service.artifact(job, "report.json", b"{}")
    url = f"/v1/jobs/{job}/{path}"
    problem(service.http.get(url), 409, "job_not_finished")
    service.change(job, state="running")
    problem(service.http.get(url), 409, "job_not_finished")
    assert service.http.get(f"/v1/jobs/{job}/artifacts").json() == []
    service.change(job, state="failed")
    problem(service.http.get(url), 404, "no_artifact")
    problem(service.http.get(f"/v1/jobs/{uuid4()}/{path}"), 404, "not_found")


def test_the_report_comes_as_it_was_stored(service: Service, done: UUID) -> None:
    answer = service.http.get(f"/v1/jobs/{done}/report")
    assert answer.content == b'{"verdict": "pass"}'
    problem(service.http.get(f"/v1/jobs/{done}/report", headers={"Accept": "text/html"}), 404, "no_artifact")


def test_the_report_as_a_page_runs_nothing(service: Service) -> None:
    job = service.job()
    service.artifact(job, "report.html", b"<script>alert(1)</script>")
    service.change(job, state="succeeded")
    answer = service.http.get(f"/v1/jobs/{job}/report", headers={"Accept": "text/html"})
    assert answer.content == b"<script>alert(1)</script>"
    assert "sandbox" in answer.headers["content-security-policy"]
    assert "script-src" not in answer.headers["content-security-policy"]
