from __future__ import annotations

import hashlib
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import uuid4

import httpx
import pytest

from service import store
from service.settings import Settings
from tests.service.running import Service, problem

CONTENT = b"some weights" * 1000


def opened(service: Service, **announced: object) -> str:
    return str(service.post("/v1/uploads", {"kind": "model", "filename": "m.safetensors", **announced}, 201)["id"])


def put(service: Service, upload: str, content: bytes | Iterator[bytes]) -> httpx.Response:
    return service.http.put(f"/v1/uploads/{upload}/content", content=content)


def leftovers(service: Service) -> list[Path]:
    return list(service.parts.settings.store.glob("parts/*/*"))


def test_bytes_are_hashed_measured_and_filed(service: Service) -> None:
    upload = opened(service)
    answer = put(service, upload, CONTENT).json()
    sha256 = hashlib.sha256(CONTENT).hexdigest()
    assert (answer["state"], answer["size"], answer["sha256"]) == ("complete", len(CONTENT), sha256)
    assert service.http.get(f"/v1/uploads/{upload}").json() == answer
    assert store.get_bytes(service.parts.store, sha256) == CONTENT
    assert leftovers(service) == []


def test_opening_tells_where(service: Service) -> None:
    answer = service.http.post("/v1/uploads", json={"kind": "bundle", "filename": "clean.zip", "size": 5})
    assert answer.headers["location"] == f"/v1/uploads/{answer.json()['id']}"
    assert answer.json()["state"] == "open"
    assert answer.json()["size"] == 5


@pytest.mark.parametrize("chunked", [False, True])
def test_a_wrong_size_or_hash_is_refused_and_can_be_sent_again(service: Service, chunked: bool) -> None:
    def sent(content: bytes) -> bytes | Iterator[bytes]:
        return iter([content[:10], content[10:]]) if chunked else content

    content = CONTENT + bytes([chunked])  # which the server has not yet
    upload = opened(service, size=len(content), sha256=hashlib.sha256(content).hexdigest())
    problem(put(service, upload, sent(content[:-1])), 422, "size_mismatch")
    problem(put(service, upload, sent(content + b"more")), 422, "size_mismatch")
    problem(put(service, upload, sent(content[:-1] + b"?")), 422, "hash_mismatch")
    assert service.http.get(f"/v1/uploads/{upload}").json()["state"] == "open"
    assert leftovers(service) == []
    assert put(service, upload, sent(content)).status_code == 200


def test_a_complete_upload_takes_nothing_more(service: Service) -> None:
    upload = service.upload("model", CONTENT)
    problem(put(service, upload, b"others"), 409, "upload_complete")
    assert service.http.get(f"/v1/uploads/{upload}").json()["sha256"] == hashlib.sha256(CONTENT).hexdigest()


def test_nothing_and_nowhere(service: Service) -> None:
    problem(put(service, opened(service), b""), 422, "empty_upload")
    problem(put(service, str(uuid4()), CONTENT), 404, "not_found")


def test_too_large_is_refused_at_every_door(service: Service) -> None:
    limit = service.parts.settings.max_upload_bytes
    body = {"kind": "model", "filename": "m", "size": limit + 1}
    problem(service.http.post("/v1/uploads", json=body), 413, "too_large")
    problem(service.http.post("/v1/uploads", json={**body, "size": 10**30}), 413, "too_large")
    host, port = service.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=5) as connection:  # announced, and refused unread
        headers = f"Host: x\r\nAuthorization: {service.http.headers['authorization']}\r\nContent-Length: {limit + 1}"
        connection.sendall(f"PUT /v1/uploads/{opened(service)}/content HTTP/1.1\r\n{headers}\r\n\r\n".encode())
        assert connection.recv(4096).startswith(b"HTTP/1.1 413")
    chunks = (b"\0" * 2**20 for _ in range(limit // 2**20 + 1))  # not announced
    problem(put(service, opened(service), chunks), 413, "too_large")
    assert leftovers(service) == []


def test_an_interrupted_upload_stays_open(service: Service) -> None:
    upload = opened(service)
    host, port = service.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        headers = f"Host: x\r\nAuthorization: {service.http.headers['authorization']}\r\nContent-Length: {len(CONTENT)}"
        connection.sendall(f"PUT /v1/uploads/{upload}/content HTTP/1.1\r\n{headers}\r\n\r\n".encode() + CONTENT[:100])
        time.sleep(0.1)
    assert put(service, upload, CONTENT).status_code == 200
    assert leftovers(service) == []


def test_of_several_at_once_one_wins_and_its_bytes_are_its_own(service: Service) -> None:
    upload = opened(service)
    contents = [bytes([i]) * 2**20 for i in range(6)]
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda content: put(service, upload, content), contents))
    won = [answer for answer in answers if answer.status_code == 200]
    assert len(won) == 1
    for answer in answers:
        if answer not in won:
            problem(answer, 409, "upload_complete")
    sha256 = won[0].json()["sha256"]
    assert hashlib.sha256(store.get_bytes(service.parts.store, sha256)).hexdigest() == sha256


def test_a_large_body_needs_little_memory(tmp_path: Path) -> None:
    """300 MB through a server of its own, whose memory may grow by a third of that."""
    settings = Settings(data=tmp_path)
    program = "import sys, uvicorn; uvicorn.run('service.app:create_app', factory=True, port=int(sys.argv[1]))"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {"REDEEM_DATA": str(tmp_path), "PYTHONPATH": ":".join(sys.path)}
    server = subprocess.Popen(
        [sys.executable, "-c", program, str(port)],
        env=environment,
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    try:
        url = f"http://127.0.0.1:{port}"
        for _ in range(400):
            try:
                httpx.get(f"{url}/livez")
                break
            except httpx.TransportError:
                time.sleep(0.05)
        headers = {"Authorization": f"Bearer {settings.key_file.read_text().strip()}"}
        with httpx.Client(base_url=url, headers=headers, timeout=60) as http:
            upload = http.post("/v1/uploads", json={"kind": "model", "filename": "m"}).json()["id"]
            before = peak_memory(server.pid)
            chunk = bytes(2**20)
            answer = http.put(f"/v1/uploads/{upload}/content", content=(chunk for _ in range(300)))
        assert answer.json()["size"] == 300 * 2**20
        assert peak_memory(server.pid) - before < 100 * 2**20
    finally:
        server.terminate()
        server.wait(10)


def peak_memory(pid: int) -> int:
    """Bytes that the process has had in memory at most."""
    status = Path(f"/proc/{pid}/status").read_text()
    return 1024 * next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
