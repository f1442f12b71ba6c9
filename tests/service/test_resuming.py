"""Uploads that are broken off, and go on: real servers, real sockets."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from uuid import UUID, uuid4

import httpx
import pytest

from redeem.local.network import free_port
from redeem.settings import child_environment
from service import store
from service.settings import Settings
from service.tables import UploadRow, now
from service.tidying import tidy
from tests.service.running import Service, problem, serving, wait_until

CONTENT = random.Random(0).randbytes(1_000_000)  # noqa: S311  any bytes will do
PART = 300_000


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    settings = Settings(
        data=tmp_path_factory.mktemp("data"), max_upload_bytes=2_000_000, upload_part_bytes=PART, uploads_per_key=3
    )
    with serving(settings) as running:
        yield running


def opened(service: Service, **announced: object) -> str:
    return str(service.post("/v1/uploads", {"kind": "model", "filename": "m", **announced}, 201)["id"])


@contextlib.contextmanager
def killable(data: Path, **settings: int) -> Iterator[tuple[Service, subprocess.Popen[bytes]]]:
    """A server in a process of its own. Of its parts there are the settings."""
    port = free_port()
    told = {f"REDEEM_{name.upper()}": str(value) for name, value in settings.items()}
    process = subprocess.Popen(
        [sys.executable, "-m", "uvicorn", "service.app:create_app", "--factory", "--port", str(port)],
        env=child_environment(REDEEM_DATA=str(data), **told),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        wait_until(lambda: answers(url), 60)
        here = Settings(data=data)
        headers = {"Authorization": f"Bearer {here.key_file.read_text().strip()}"}
        with httpx.Client(base_url=url, headers=headers, timeout=30) as http:
            yield Service(url, http, SimpleNamespace(settings=here)), process  # type: ignore[arg-type]
    finally:
        process.kill()
        process.wait(10)


def answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/livez").is_success
    except httpx.TransportError:
        return False


def fresh() -> tuple[bytes, str]:
    """Bytes that the server does not know yet, and their hash."""
    content = os.urandom(len(CONTENT))
    return content, hashlib.sha256(content).hexdigest()


def append(service: Service, upload: str, offset: int, content: bytes | Iterator[bytes], last: bool) -> httpx.Response:
    headers = {
        "Content-Type": "application/partial-upload",
        "Upload-Offset": str(offset),
        "Upload-Complete": "?1" if last else "?0",
    }
    return service.http.patch(f"/v1/uploads/{upload}/content", content=content, headers=headers)


def standing(service: Service, upload: str) -> tuple[int, str]:
    answer = service.http.head(f"/v1/uploads/{upload}/content")
    assert answer.status_code == 204
    assert answer.headers["cache-control"] == "no-store"
    return int(answer.headers["upload-offset"]), answer.headers["upload-complete"]


def begin(service: Service, method: str, upload: str, length: int, **headers: str) -> socket.socket:
    """A request whose body is still to be sent."""
    host, port = service.url.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)), timeout=10)
    lines = {"Host": "x", "Authorization": service.http.headers["authorization"], "Content-Length": str(length)}
    told = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in (lines | headers).items())
    connection.sendall(f"{method} /v1/uploads/{upload}/content HTTP/1.1\r\n{told}\r\n".encode())
    return connection


def patching(service: Service, upload: str, offset: int, length: int, last: bool = True) -> socket.socket:
    about = {"Upload_Offset": str(offset), "Upload_Complete": "?1" if last else "?0"}
    return begin(service, "PATCH", upload, length, Content_Type="application/partial-upload", **about)


def finish(service: Service, upload: str, content: bytes) -> httpx.Response:
    offset, _ = standing(service, upload)
    return append(service, upload, offset, content[offset:], last=True)


def pieces(service: Service, upload: str) -> list[Path]:
    return list(service.parts.settings.store.glob(f"parts/{upload}/*"))


def test_an_upload_goes_on_where_it_stopped(service: Service) -> None:
    content, sha256 = fresh()
    upload = opened(service, size=len(content), sha256=sha256)
    assert standing(service, upload) == (0, "?0")
    first = append(service, upload, 0, content[:400_000], last=False)
    assert (first.status_code, first.headers["upload-offset"], first.headers["upload-complete"]) == (
        204,
        "400000",
        "?0",
    )
    assert standing(service, upload) == (400_000, "?0")
    assert service.http.get(f"/v1/uploads/{upload}").json()["received"] == 400_000
    last = append(service, upload, 400_000, content[400_000:], last=True)
    assert (last.status_code, last.headers["upload-complete"]) == (200, "?1")
    assert (last.json()["state"], last.json()["sha256"], last.json()["size"]) == ("complete", sha256, len(content))
    assert standing(service, upload) == (len(content), "?1")
    assert store.get_bytes(service.parts.store, sha256) == content
    assert pieces(service, upload) == []


def test_limits_and_length_are_told(service: Service) -> None:
    upload = opened(service, size=len(CONTENT))
    headers = service.http.head(f"/v1/uploads/{upload}/content").headers
    assert headers["upload-length"] == str(len(CONTENT))
    assert headers["upload-limit"].startswith("max-size=2000000, max-age=863")
    untold = opened(service)
    assert "upload-length" not in service.http.head(f"/v1/uploads/{untold}/content").headers
    append(service, untold, 0, b"", last=False)
    with patching(service, untold, 0, 10):
        wait_until(lambda: service.http.head(f"/v1/uploads/{untold}/content").headers.get("upload-length") == "10")


def test_cut_at_random_and_resumed_it_is_the_same_file(service: Service) -> None:
    """The offset is never ahead of what is in the store, and never behind it by more than a part."""
    content, sha256 = fresh()
    chance = random.Random(1)  # noqa: S311  no secret
    upload, offset, sent = opened(service, sha256=sha256), 0, 0
    for _ in range(50):
        count = chance.randrange(0, min(50_000, len(content) - offset))
        with patching(service, upload, offset, len(content) - offset) as connection:
            connection.sendall(content[offset : offset + count])
            time.sleep(chance.choice([0, 0.02]))
        sent, before = max(sent, offset + count), offset
        wait_until(lambda: not service.parts.sending)
        offset = standing(service, upload)[0]
        assert before <= offset <= sent
    assert offset > 0
    wait_until(lambda: finish(service, upload, content).status_code == 200)
    assert service.http.get(f"/v1/uploads/{upload}").json()["sha256"] == sha256


def test_a_whole_body_that_is_cut_is_kept_as_far_as_it_came(service: Service) -> None:
    content, sha256 = fresh()
    upload = opened(service, sha256=sha256)
    with begin(service, "PUT", upload, len(content)) as connection:
        connection.sendall(content[:700_000])
        time.sleep(0.3)
    wait_until(lambda: standing(service, upload)[0] > 0)
    offset, _ = standing(service, upload)
    assert offset <= 700_000
    assert append(service, upload, offset, content[offset:], last=True).json()["sha256"] == sha256


def test_who_asks_where_to_go_on_ends_who_still_sends_and_learns_of_every_byte(service: Service) -> None:
    """As after a line that went dead without a word: the server still waits on it."""
    for method in ("PUT", "PATCH"):
        content, sha256 = fresh()
        upload = opened(service, sha256=sha256)
        start = begin(service, "PUT", upload, len(content)) if method == "PUT" else None
        with start or patching(service, upload, 0, len(content)) as dead:
            dead.sendall(content[:700_000])
            wait_until(lambda: service.parts.sending)
            time.sleep(0.3)  # they are on their way
            assert standing(service, upload) == (700_000, "?0")
            assert dead.recv(4096).startswith(b"HTTP/1.1 400")
        assert append(service, upload, 700_000, content[700_000:], last=True).json()["sha256"] == sha256


def test_who_only_looks_ends_nobody(service: Service) -> None:
    upload = opened(service)
    with begin(service, "PUT", upload, len(CONTENT)) as sending:
        sending.sendall(CONTENT[:700_000])
        wait_until(lambda: service.parts.sending)
        assert service.http.get(f"/v1/uploads/{upload}").json()["state"] == "open"
        sending.sendall(CONTENT[700_000:])
        assert sending.recv(4096).startswith(b"HTTP/1.1 200")


def test_a_whole_body_replaces_parts(service: Service) -> None:
    content, sha256 = fresh()
    upload = opened(service)
    append(service, upload, 0, b"other bytes", last=False)
    assert service.http.put(f"/v1/uploads/{upload}/content", content=content).json()["sha256"] == sha256
    assert pieces(service, upload) == []


def test_bytes_that_do_not_follow_are_refused(service: Service) -> None:
    upload = opened(service)
    append(service, upload, 0, b"12345", last=False)
    for offset in (0, 4, 6):
        answer = append(service, upload, offset, b"678", last=False)
        said = problem(answer, 409, "mismatching_upload_offset")
        assert (said["expected-offset"], said["provided-offset"]) == (5, offset)
        assert said["type"] == "https://iana.org/assignments/http-problem-types#mismatching-upload-offset"
        assert answer.headers["upload-offset"] == "5"


def test_of_two_that_append_at_once_one_wins(service: Service) -> None:
    upload, half = opened(service), len(CONTENT) // 2
    with patching(service, upload, 0, half, last=False) as one, patching(service, upload, 0, half, last=False) as other:
        for start in range(0, half, 100_000):
            one.sendall(CONTENT[start : min(half, start + 100_000)])
            other.sendall(bytes(min(half, start + 100_000) - start))
        answers = sorted([one.recv(4096)[:12], other.recv(4096)[:12]])
    assert answers == [b"HTTP/1.1 204", b"HTTP/1.1 409"]
    assert standing(service, upload) == (half, "?0")
    last = append(service, upload, half, CONTENT[half:], last=True)
    mine, others = CONTENT, bytes(half) + CONTENT[half:]
    assert last.json()["sha256"] in [hashlib.sha256(content).hexdigest() for content in (mine, others)]


def test_several_who_finish_at_once_finish_once(service: Service) -> None:
    upload = opened(service)
    append(service, upload, 0, CONTENT, last=False)
    with ThreadPoolExecutor(3) as pool:
        answers = list(pool.map(lambda _: append(service, upload, len(CONTENT), b"", last=True), range(3)))
    assert sorted(answer.status_code for answer in answers) == [200, 409, 409]
    assert standing(service, upload) == (len(CONTENT), "?1")


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ({"Content-Type": "application/octet-stream"}, 415, "wrong_media_type"),
        ({"Upload-Offset": "-1"}, 400, "bad_upload_header"),
        ({"Upload-Offset": "1e3"}, 400, "bad_upload_header"),
        ({"Upload-Complete": "true"}, 400, "bad_upload_header"),
        ({"Upload-Length": "no"}, 400, "bad_upload_header"),
        ({"Upload-Length": "9"}, 422, "size_mismatch"),
        ({"Upload-Length": "2000001", "Upload-Complete": "?0"}, 413, "too_large"),
    ],
)
def test_headers_are_checked(service: Service, headers: dict[str, str], status: int, code: str) -> None:
    right = {"Content-Type": "application/partial-upload", "Upload-Offset": "0", "Upload-Complete": "?1"}
    url = f"/v1/uploads/{opened(service)}/content"
    problem(service.http.patch(url, content=b"1234", headers=right | headers), status, code)


def test_more_or_less_than_announced_is_refused_and_what_came_before_stays(service: Service) -> None:
    upload = opened(service, size=10)
    append(service, upload, 0, b"12345", last=False)
    problem(append(service, upload, 5, b"678901", last=False), 422, "size_mismatch")
    problem(append(service, upload, 5, iter([b"678901"]), last=False), 422, "size_mismatch")
    problem(append(service, upload, 5, b"6", last=True), 422, "size_mismatch")
    problem(append(service, upload, 5, iter([b"6"]), last=True), 422, "size_mismatch")
    assert standing(service, upload) == (6, "?0")  # that one did come; it only was not the last
    assert append(service, upload, 6, b"7890", last=True).status_code == 200


def test_parts_may_not_be_larger_than_the_server_takes(service: Service) -> None:
    upload = opened(service)
    problem(append(service, upload, 0, iter([bytes(1_500_000), bytes(600_000)]), last=False), 413, "too_large")
    assert standing(service, upload)[0] <= 2_000_000


def test_parts_with_another_hash_are_forgotten(service: Service) -> None:
    content, sha256 = fresh()
    upload = opened(service, sha256=sha256)
    problem(append(service, upload, 0, content[:-1] + bytes([content[-1] ^ 1]), last=True), 422, "hash_mismatch")
    assert standing(service, upload) == (0, "?0")
    assert pieces(service, upload) == []
    assert append(service, upload, 0, content, last=True).status_code == 200


def test_a_complete_upload_takes_no_parts(service: Service) -> None:
    upload = service.upload("model", CONTENT)
    problem(append(service, upload, len(CONTENT), b"more", last=True), 409, "upload_complete")
    problem(append(service, upload, 0, b"more", last=False), 409, "upload_complete")


def test_nothing_and_nowhere(service: Service) -> None:
    problem(append(service, opened(service), 0, b"", last=True), 422, "empty_upload")
    problem(append(service, str(uuid4()), 0, CONTENT, last=True), 404, "not_found")
    assert service.http.head(f"/v1/uploads/{uuid4()}/content").status_code == 404


def test_an_upload_is_deleted_with_its_bytes_where_nothing_is_made_of_it(service: Service) -> None:
    upload = opened(service)
    append(service, upload, 0, CONTENT, last=False)
    assert pieces(service, upload) != []
    assert service.http.delete(f"/v1/uploads/{upload}").status_code == 204
    assert pieces(service, upload) == []
    problem(service.http.get(f"/v1/uploads/{upload}"), 404, "not_found")
    problem(service.http.delete(f"/v1/uploads/{upload}"), 404, "not_found")
    used = service.http.get(f"/v1/models/{service.model()}").json()["upload"]
    problem(service.http.delete(f"/v1/uploads/{used}"), 409, "upload_in_use")
    assert service.http.get(f"/v1/uploads/{used}").status_code == 200


def test_deleting_ends_who_is_sending(service: Service) -> None:
    upload = opened(service)
    with patching(service, upload, 0, len(CONTENT)) as connection:
        connection.sendall(CONTENT[:100])
        wait_until(lambda: service.parts.sending)
        service.http.delete(f"/v1/uploads/{upload}")
        connection.sendall(CONTENT[100:])
        assert connection.recv(4096).startswith(b"HTTP/1.1 404")
    tidy(service.parts)
    assert pieces(service, upload) == []


def test_of_too_many_at_once_the_last_is_asked_to_wait(service: Service) -> None:
    wait_until(lambda: not service.parts.sending)
    sending = [patching(service, opened(service), 0, 10) for _ in range(3)]
    wait_until(lambda: sum(service.parts.sending.values()) == 3)
    refused = append(service, opened(service), 0, b"1", last=True)
    problem(refused, 429, "too_many_uploads")
    assert refused.headers["retry-after"] == "2"
    for connection in sending:
        connection.close()
    wait_until(lambda: not service.parts.sending)
    assert append(service, opened(service), 0, b"1", last=True).status_code == 200


def test_who_sends_too_slowly_is_told_and_what_came_stays(settings: Settings) -> None:
    patient = {"upload_patience": timedelta(seconds=0.4), "min_upload_rate": 10_000}
    with serving(settings.model_copy(update=patient)) as service:
        upload = opened(service)
        with begin(service, "PUT", upload, len(CONTENT)) as connection:
            connection.sendall(CONTENT[:1000])
            assert connection.recv(4096).startswith(b"HTTP/1.1 408")
        assert standing(service, upload) == (1000, "?0")
        with patching(service, upload, 1000, 7000, last=False) as connection:
            for start in range(1000, 8000, 1000):  # fast enough: longer than the patience, and not refused
                connection.sendall(CONTENT[start : start + 1000])
                time.sleep(0.08)
            assert connection.recv(4096).startswith(b"HTTP/1.1 204")


def test_a_disk_that_is_nearly_full_is_kept_from_getting_full(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = 5_000_000
    monkeypatch.setattr(store, "free_bytes", lambda opened: free)
    with serving(settings.model_copy(update={"min_free_bytes": 4_000_000})) as service:
        body = {"kind": "model", "filename": "m", "size": 1_000_001}
        problem(service.http.post("/v1/uploads", json=body), 507, "insufficient_storage")
        upload = opened(service)
        problem(
            service.http.put(f"/v1/uploads/{upload}/content", content=bytes(1_000_001)), 507, "insufficient_storage"
        )
        with begin(service, "PUT", upload, 900_000) as connection:
            connection.sendall(bytes(100_000))
            wait_until(lambda: service.parts.sending)
            free = 3_000_000  # others fill it meanwhile
            connection.sendall(bytes(800_000))
            answer = connection.recv(4096)
        assert b"insufficient_storage" in answer or answer.startswith(b"HTTP/1.1 200")  # it may all have come before


def test_what_nobody_comes_back_for_is_removed(settings: Settings) -> None:
    with serving(settings) as service:
        abandoned, going_on, complete = opened(service), opened(service), service.upload("model", CONTENT)
        for upload in (abandoned, going_on):
            append(service, upload, 0, b"bytes", last=False)
        with service.parts.sessions.begin() as session:
            for upload in (abandoned, complete):
                row = session.get_one(UploadRow, UUID(upload))
                row.created_at = row.received_at = now() - timedelta(hours=25)
        orphan = settings.store / "parts" / complete / "left#1"  # what a killed process leaves
        orphan.parent.mkdir()
        orphan.write_bytes(b"bytes")
        tidy(service.parts)
        problem(service.http.get(f"/v1/uploads/{abandoned}"), 404, "not_found")
        assert standing(service, going_on) == (5, "?0")
        assert standing(service, complete) == (len(CONTENT), "?1")
        assert [path.name for path in settings.store.glob("parts/*")] == [going_on]


def test_it_is_the_same_with_a_store_on_the_network(settings: Settings, s3: dict[str, str]) -> None:
    content, sha256 = fresh()
    remote = {"store_url": f"s3://redeem/{uuid4()}", "store_options": s3, "upload_part_bytes": PART}
    with serving(settings.model_copy(update=remote)) as service:
        upload = opened(service, size=len(content), sha256=sha256)
        with patching(service, upload, 0, len(content)) as connection:
            connection.sendall(content[:700_000])
            wait_until(lambda: int(service.http.get(f"/v1/uploads/{upload}").json()["received"]) >= PART)
        wait_until(lambda: not service.parts.sending)
        assert store.with_parts(service.parts.store) == [UUID(upload)]
        wait_until(lambda: finish(service, upload, content).status_code == 200)
        assert store.get_bytes(service.parts.store, sha256) == content
        assert store.with_parts(service.parts.store) == []


def test_a_server_that_is_killed_loses_one_part_at_most(tmp_path: Path) -> None:
    content, sha256 = fresh()
    with killable(tmp_path, upload_part_bytes=PART) as (service, server):
        upload = opened(service, size=len(content), sha256=sha256)
        with patching(service, upload, 0, len(content)) as connection:
            connection.sendall(content[:800_000])
            wait_until(lambda: service.http.get(f"/v1/uploads/{upload}").json()["received"] >= 2 * PART)
            server.kill()
            server.wait(10)
    with killable(tmp_path, upload_part_bytes=PART) as (service, _):
        offset, _ = standing(service, upload)
        assert 2 * PART <= offset <= 800_000
        assert append(service, upload, offset, content[offset:], last=True).json()["sha256"] == sha256
        assert pieces(service, upload) == []
