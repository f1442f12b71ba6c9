from __future__ import annotations

import re
import socket
import stat

import httpx
import pytest

from service.settings import Settings
from tests.service.running import Service, problem, serving


@pytest.mark.parametrize("credentials", ["", "Bearer", "Basic {key}", "{key}", "Bearer {key}x", "Bearer \xff"])
def test_only_the_key_itself_is_let_in(service: Service, credentials: str) -> None:
    key = service.http.headers["authorization"].removeprefix("Bearer ")
    headers = {b"Authorization": credentials.format(key=key).encode("latin-1")}
    problem(httpx.get(f"{service.url}/v1/jobs", headers=headers), 401, "unauthorized")
    assert httpx.get(f"{service.url}/v1/jobs", headers={"Authorization": f"bearer {key}"}).status_code == 200


@pytest.mark.parametrize("path", ["/v1", "/v1/nothing", "/v1/../v1/jobs", "/%761/jobs"])
def test_what_does_not_exist_is_not_told_apart_without_a_key(service: Service, path: str) -> None:
    problem(httpx.get(service.url + path), 401, "unauthorized")


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/docs", "/openapi.json"])
def test_open_paths_need_no_key(service: Service, path: str) -> None:
    assert httpx.get(service.url + path).status_code == 200


def test_the_body_is_not_read_before_the_key(service: Service) -> None:
    """A megabyte is announced, none of it is sent, and the answer comes all the same."""
    host, port = service.url.removeprefix("http://").split(":")
    for request in ("POST /v1/jobs", "PUT /v1/uploads/01a204d9-5763-73f2-8582-0df0aa8dd4d9/content"):
        with socket.create_connection((host, int(port)), timeout=5) as connection:
            connection.sendall(f"{request} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n".encode())
            assert connection.recv(4096).startswith(b"HTTP/1.1 401")


def test_the_key_file_is_private_and_stays(settings: Settings) -> None:
    with serving(settings) as first:
        key = settings.key_file.read_text().strip()
        assert re.fullmatch(r"redeem_[0-9a-f]{12}_[A-Za-z0-9_-]{43}", key)
        assert stat.S_IMODE(settings.key_file.stat().st_mode) == 0o600
        job = first.job()
    with serving(settings) as second:
        assert settings.key_file.read_text().strip() == key
        assert second.http.get(f"/v1/jobs/{job}").json()["state"] == "queued"
    assert key.encode() not in settings.data.joinpath("redeem.db").read_bytes()


@pytest.mark.parametrize("left", [None, "redeem_stale\n"])
def test_a_lost_or_stale_key_file_gets_a_new_key(
    settings: Settings, left: str | None, capfd: pytest.CaptureFixture[str]
) -> None:
    with serving(settings):
        old = settings.key_file.read_text().strip()
    settings.key_file.unlink() if left is None else settings.key_file.write_text(left)
    capfd.readouterr()
    with serving(settings) as service:
        new = settings.key_file.read_text().strip()
        assert new not in (old, left)
        for key in (old, new):
            assert httpx.get(f"{service.url}/v1/jobs", headers={"Authorization": f"Bearer {key}"}).status_code == 200
    said = capfd.readouterr().err
    assert "older keys still work" in said
    assert new not in said
