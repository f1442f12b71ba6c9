"""What the client makes of a server, or of something on the way, that misbehaves: real sockets, scripted answers."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from uuid import uuid4

import pytest

import redeem.http
from redeem.client import Client
from redeem.contract import Job, JobRequest, JobState, MethodRequest, Outcome, Policy
from redeem.errors import Corrupt, RedeemError, ServerProblem, Unreachable

CONTENT = b"0123456789" * 1000
ETAG = f'"sha256:{hashlib.sha256(CONTENT).hexdigest()}"'

Answer = Callable[[BaseHTTPRequestHandler], None]
Script = Callable[..., tuple[Client, list[str]]]


def status(code: int, body: bytes = b"", **headers: str) -> Answer:
    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(code)
        for name, value in {"Content_Length": str(len(body)), **headers}.items():
            request.send_header(name.replace("_", "-"), value)
        request.end_headers()
        request.wfile.write(body)

    return answer


def cut_after(count: int, body: bytes, code: int = 200) -> Answer:
    """Announce the whole body, send a part of it, and hang up."""

    def answer(request: BaseHTTPRequestHandler) -> None:
        status(code, b"", Content_Length=str(len(body)), ETag=ETAG)(request)
        request.wfile.write(body[:count])
        request.close_connection = True

    return answer


def hang_up(request: BaseHTTPRequestHandler) -> None:
    request.close_connection = True


@pytest.fixture
def script() -> Iterator[Script]:
    """A server that gives these answers in turn, a client for it, and the list of what it was asked."""
    servers: list[ThreadingHTTPServer] = []

    def scripted(*answers: Answer) -> tuple[Client, list[str]]:
        asked: list[str] = []
        left = list(answers)

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                asked.append(f"{self.command} {self.headers.get('Range', '')}".strip())
                left.pop(0)(self)

            do_GET = do_POST = answer  # noqa: N815

            def log_message(self, *arguments: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        servers.append(server)
        Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}).start()
        return Client(f"http://127.0.0.1:{server.server_port}", "key"), asked

    yield scripted
    for server in servers:
        server.shutdown()
        server.server_close()


def test_a_busy_server_is_asked_again(script: Script) -> None:
    client, asked = script(status(503, Retry_After="0"), status(429), hang_up, status(200, b"[]"))
    with client:
        assert client.artifacts(uuid4()) == []
    assert asked == ["GET"] * 4


def test_a_server_that_stays_busy_is_given_up(script: Script) -> None:
    client, asked = script(*[status(503)] * 9)
    with client, pytest.raises(ServerProblem) as refused:
        client.artifacts(uuid4())
    assert refused.value.code == "http_503"
    assert len(asked) == 4


@pytest.mark.parametrize(("fault", "error"), [(status(502), ServerProblem), (hang_up, Unreachable)])
def test_what_creates_is_not_repeated_when_it_may_have_happened(
    script: Script, fault: Answer, error: type[Exception]
) -> None:
    client, asked = script(fault, status(202))
    with client, pytest.raises(error):
        client.submit(JobRequest(model=uuid4(), clean=uuid4()))
    assert asked == ["POST"]


def test_what_creates_is_repeated_when_it_certainly_did_not_happen(script: Script) -> None:
    client, asked = script(status(503), status(404))
    with client, pytest.raises(ServerProblem):
        client.submit(JobRequest(model=uuid4(), clean=uuid4()))
    assert asked == ["POST", "POST"]


def test_who_waits_has_more_patience_than_who_asks_once(script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redeem.http, "FIRST_PAUSE", 0.01)
    ended = Job(
        id=uuid4(),
        state=JobState.succeeded,
        stage=None,
        progress=1.0,
        verdict=Outcome.passed,
        error=None,
        cancel_requested=False,
        attempts=1,
        model=uuid4(),
        clean=uuid4(),
        triggered=None,
        purifier=MethodRequest(name="sage"),
        detectors=[],
        policy=Policy(),
        seed=0,
        priority=5,
        labels={},
        timings={},
        created_at=datetime.now(UTC),
        started_at=None,
        finished_at=None,
    )
    client, asked = script(*[hang_up] * 10, status(200, ended.model_dump_json().encode()))
    with client:
        with pytest.raises(Unreachable):
            client.get(ended.id)
        assert client.wait(ended.id) == ended
    assert len(asked) == 11


def test_a_broken_download_goes_on_where_it_broke(script: Script, tmp_path: Path) -> None:
    client, asked = script(
        cut_after(4000, CONTENT), cut_after(2000, CONTENT[4000:], 206), status(206, CONTENT[6000:], ETag=ETAG)
    )
    steps: list[int] = []
    with client:
        target = client.download_weights(uuid4(), tmp_path / "weights", steps.append)
    assert target.read_bytes() == CONTENT
    assert sum(steps) == len(CONTENT)
    assert asked == ["GET", "GET bytes=4000-", "GET bytes=6000-"]


def test_a_download_begins_anew_where_the_file_changed_meanwhile(script: Script, tmp_path: Path) -> None:
    newer = b"newer"
    etag = f'"sha256:{hashlib.sha256(newer).hexdigest()}"'
    client, _ = script(cut_after(4000, CONTENT), status(200, newer, ETag=etag))
    steps: list[int] = []
    with client:
        assert client.download_weights(uuid4(), tmp_path / "weights", steps.append).read_bytes() == newer
    assert sum(steps) == len(newer)


def test_a_file_without_a_hash_is_not_taken(script: Script, tmp_path: Path) -> None:
    client, _ = script(status(200, CONTENT))
    with client, pytest.raises(Corrupt) as refused:
        client.download_weights(uuid4(), tmp_path / "weights")
    assert refused.value.code == "hash_missing"
    assert list(tmp_path.iterdir()) == []


def test_a_report_of_another_kind_than_asked_for_is_not_taken(script: Script, tmp_path: Path) -> None:
    client, _ = script(status(200, b"{}", Content_Type="application/json"))
    with client, pytest.raises(RedeemError) as refused:
        client.download_report(uuid4(), tmp_path / "report.html", "text/html")
    assert refused.value.code == "media_type_missing"
    assert list(tmp_path.iterdir()) == []
