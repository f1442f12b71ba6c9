from __future__ import annotations

import importlib
import json
import pkgutil
import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from uuid import uuid4

import httpx
import pytest

import service as package
from service import errors
from service.errors import ServiceError
from service.limits import MAX_JSON
from service.settings import Settings
from tests.service.running import Service, problem, serving


def test_the_service_needs_no_torch() -> None:
    program = (
        "import sys; sys.modules['torch'] = None; import service.app; assert not {'worker', 'numpy'} & {*sys.modules}"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v1/nothing", 404, "not_found"),
        ("GET", "/nothing", 404, "not_found"),
        ("DELETE", "/v1/jobs", 405, "method_not_allowed"),
        ("PUT", "/v1/jobs", 405, "method_not_allowed"),
        ("POST", "/livez", 405, "method_not_allowed"),
    ],
)
def test_what_is_not_there_is_a_problem_too(service: Service, method: str, path: str, status: int, code: str) -> None:
    refused = problem(service.http.request(method, path), status, code)
    assert refused["instance"] == path


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/v1/jobs", "GET, POST"),
        ("/v1/jobs/00000000-0000-7000-8000-000000000001/weights", "GET, HEAD"),
        ("/v1/uploads/1/content", "HEAD, PATCH, PUT"),
    ],
)
def test_who_asks_wrongly_is_told_all_the_methods_of_a_path(service: Service, path: str, allowed: str) -> None:
    answer = service.http.options(path)
    problem(answer, 405, "method_not_allowed")
    assert answer.headers["allow"] == allowed


def test_a_refused_head_has_the_headers_of_a_problem(service: Service) -> None:
    for path, status in (("/v1/jobs", 405), (f"/v1/jobs/{uuid4()}/weights", 404)):
        answer = service.http.head(path)
        assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
        assert answer.content == b""


@pytest.mark.parametrize(
    "id", ["trace-7", "0af7651916cd43dd8448eb211c80319c", "Root=1-67891233-abcdef012345678912345678"]
)
def test_a_request_keeps_the_id_it_came_with(service: Service, id: str) -> None:
    answer = service.http.get("/v1/nothing", headers={"X-Request-Id": id})
    assert problem(answer, 404, "not_found")["request_id"] == id
    assert service.http.get("/livez", headers={"X-Request-Id": id}).headers["x-request-id"] == id


@pytest.mark.parametrize("id", ["", "a b", 'x"y', "é".encode(), "-" * 8, "a" * 129, "<script>"])
def test_an_id_that_is_not_fit_for_a_log_is_replaced(service: Service, id: str | bytes) -> None:
    answer = service.http.get("/v1/nothing", headers=[(b"X-Request-Id", id if isinstance(id, bytes) else id.encode())])
    assert re.fullmatch("[0-9a-f]{32}", problem(answer, 404, "not_found")["request_id"])


def test_without_a_key_too_the_problem_names_the_request(service: Service) -> None:
    problem(httpx.get(f"{service.url}/v1/jobs", headers={"X-Request-Id": "mine"}), 401, "unauthorized")


@pytest.mark.parametrize(
    ("content", "content_type", "status"),
    [
        (b"{", "application/json", 422),
        (b"[1]", "application/json", 422),
        (b"", "application/json", 422),
        (b"{}", "text/plain", 422),
        (b"\xff\xfe{", "application/json", 400),
        (b"[" * 100_000, "application/json", 400),
        (b"1" * 10_000, "application/json", 400),
        (b'{"kind": "model", "filename": "\\ud800"}', "application/json", 422),
    ],
)
def test_a_hostile_body_is_a_clear_error(service: Service, content: bytes, content_type: str, status: int) -> None:
    answer = service.http.post("/v1/uploads", content=content, headers={"Content-Type": content_type})
    problem(answer, status, {400: "bad_request", 422: "invalid_request"}[status])


@pytest.mark.parametrize("announced", [True, False])
def test_a_large_json_body_is_not_read_to_its_end(service: Service, announced: bool) -> None:
    chunks = [b"x" * 2**20] * (MAX_JSON // 2**20 + 1)
    content = b"".join(chunks) if announced else iter(chunks)
    answer = service.http.post("/v1/uploads", content=content, headers={"Content-Type": "application/json"})
    problem(answer, 413, "too_large")


def test_every_answer_has_an_id_and_the_log_no_secret(settings: Settings, capfd: pytest.CaptureFixture[str]) -> None:
    with serving(settings) as service:
        key = service.http.headers["authorization"].split()[1]
        answer = service.http.get("/v1/jobs?cursor=private")
    # The line is written after the answer; once the server has stopped it is there, and nobody writes while we read.
    lines = capfd.readouterr().err.splitlines()
    line = next(json.loads(line) for line in lines if answer.headers["x-request-id"] in line)
    assert (line["method"], line["path"], line["status"]) == ("GET", "/v1/jobs", 422)
    assert key not in json.dumps(line)
    assert "private" not in json.dumps(line)


def test_an_unforeseen_error_says_nothing_of_the_inside(settings: Settings) -> None:
    with serving(settings) as service:
        job = service.job()
        with sqlite3.connect(settings.data / "redeem.db") as database:
            database.execute("UPDATE jobs SET policy = '[]'")
        database.close()
        answer = service.http.get(f"/v1/jobs/{job}")
    refused = problem(answer, 500, "internal_error")
    assert answer.headers["x-request-id"]
    assert "policy" not in str(refused)


def test_ready_without_a_broker_is_degraded(service: Service) -> None:
    answer = httpx.get(f"{service.url}/readyz")
    assert answer.status_code == 200
    assert answer.json()["status"] == "degraded"
    assert answer.json()["checks"] == {"database": "ok", "migrations": "ok", "store": "ok", "broker": "failed"}


def test_not_ready_without_a_store_or_with_an_older_database(settings: Settings) -> None:
    with serving(settings) as service:
        shutil.rmtree(settings.store)
        settings.store.write_bytes(b"in the way")
        with sqlite3.connect(settings.data / "redeem.db") as database:
            database.execute("UPDATE alembic_version SET version_num = '0001'")
        database.close()
        answer = httpx.get(f"{service.url}/readyz")
    assert answer.status_code == 503
    assert answer.json()["checks"] == {"database": "ok", "migrations": "failed", "store": "failed", "broker": "failed"}


def test_a_locked_database_is_told_and_recovers(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(settings) as service:
        with service.parts.engine.connect() as connection:
            connection.exec_driver_sql("ALTER TABLE api_keys RENAME TO hidden")
            connection.commit()
        answer = service.http.get("/v1/jobs")
        problem(answer, 503, "database_unavailable")
        assert answer.headers["retry-after"] == "5"
        with service.parts.engine.connect() as connection:
            connection.exec_driver_sql("ALTER TABLE hidden RENAME TO api_keys")
            connection.commit()
        assert service.http.get("/v1/jobs").status_code == 200


def refusals(base: type[ServiceError]) -> Iterator[type[ServiceError]]:
    """All of them, wherever they stand."""
    for kind in base.__subclasses__():
        yield kind
        yield from refusals(kind)


def test_every_refusal_is_drawn_with_its_status_and_has_a_code_of_its_own() -> None:
    for module in pkgutil.walk_packages(package.__path__, "service."):
        importlib.import_module(module.name)  # or what counts depends on the tests that ran before
    drawn = dict(re.findall(r"─ (\w+) +(\d{3})?", errors.__doc__ or ""))
    kinds = list(refusals(ServiceError))
    assert set(drawn) == {kind.__name__ for kind in kinds}
    for kind in kinds:
        assert drawn[kind.__name__] in ("", str(kind.status))
        assert kind.hint
    assert len({kind.code for kind in kinds}) == len(kinds)
