from __future__ import annotations

import socket
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from redeem.client import Client
from redeem.contract import JobState
from redeem.errors import ServeError
from redeem.local import server as local
from redeem.local import valkey
from redeem.local.server import Address, local_server, workers


def test_a_second_start_on_the_folder_goes_on_and_nothing_is_left_in_between(
    tmp_path: Path, without_worker: Any, submit: Any, living: Callable[[str], dict[int, str]]
) -> None:
    data = tmp_path / "data"
    with local_server(data, processes=without_worker) as first, Client(first.url, first.key) as client:
        job = submit(client)
    assert living(str(data)) == {}
    with local_server(data, processes=without_worker) as second, Client(second.url, second.key) as client:
        assert second.key == first.key
        assert client.get(job.id).state is JobState.queued


def test_a_folder_has_one_server(server: Address, data: Path, without_worker: Any) -> None:
    with (
        pytest.raises(ServeError, match="used by another server") as error,
        local_server(data, processes=without_worker),
    ):
        pass
    assert error.value.code == "data_locked"
    assert httpx.get(f"{server.url}/livez").is_success


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ServeError) as error, local_server(tmp_path / "file" / "data"):
        pass
    assert error.value.code == "data_unwritable"


def test_a_taken_port_is_told(tmp_path: Path) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as other,
        pytest.raises(ServeError) as error,
        local_server(tmp_path, port=other.getsockname()[1]),
    ):
        pass
    assert error.value.code == "port_taken"


def test_an_address_of_another_machine_is_told(tmp_path: Path) -> None:
    with pytest.raises(ServeError) as error, local_server(tmp_path, port=8000, host="192.0.2.1"):
        pass
    assert error.value.code == "address_unusable"


def test_missing_extras_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "EXTRAS", {"service": ("fastapi",), "worker": ("torch_that_is_not_there",)})
    with pytest.raises(ServeError, match="the extras worker are not installed") as error, local_server(tmp_path):
        pass
    assert error.value.code == "extras_missing"


def test_a_machine_without_valkey_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(valkey, "find_valkey", lambda: None)
    with pytest.raises(ServeError) as error, local_server(tmp_path):
        pass
    assert error.value.code == "valkey_missing"


def test_a_valkey_that_does_not_start_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(valkey, "find_valkey", lambda: "/bin/false")
    with pytest.raises(ServeError, match="valkey stopped while it started") as error, local_server(tmp_path):
        pass
    assert error.value.code == "start_failed"


def test_the_brokers_password_is_its_owners_alone(
    server: Address, data: Path, living: Callable[[str], dict[int, str]]
) -> None:
    configuration = data / "valkey" / "valkey.conf"
    settings = dict(line.split(" ", 1) for line in configuration.read_text().splitlines())
    assert stat.S_IMODE(configuration.stat().st_mode) == 0o600
    assert stat.S_IMODE(data.stat().st_mode) == 0o700
    commands = living(str(data)).values()
    assert len(commands) == 2
    assert not any(settings["requirepass"] in command for command in commands)
    with socket.create_connection(("127.0.0.1", int(settings["port"]))) as connection:
        connection.sendall(b"PING\r\n")
        assert connection.recv(100).startswith(b"-NOAUTH")


def test_the_shells_database_and_broker_are_not_the_local_servers(
    tmp_path: Path, without_worker: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDEEM_DATABASE_URL", f"sqlite:///{tmp_path}/foreign.db")
    monkeypatch.setenv("REDEEM_BROKER_URL", "redis://127.0.0.1:1/0")
    with local_server(tmp_path / "data", processes=without_worker) as address:
        assert httpx.get(f"{address.url}/readyz").json()["status"] == "ok"
    assert (tmp_path / "data" / "redeem.db").exists()
    assert not (tmp_path / "foreign.db").exists()


def test_packages_do_not_come_from_the_folder_where_the_user_is(
    tmp_path: Path, without_worker: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "service").mkdir()
    (tmp_path / "service" / "__init__.py").write_text("raise SystemExit('the wrong package')")
    monkeypatch.chdir(tmp_path)
    with local_server(Path("data"), processes=without_worker) as address:
        assert httpx.get(f"{address.url}/livez").is_success


@pytest.mark.parametrize(
    ("gpus", "shell", "seen"),
    [
        (0, {}, {"worker": None}),
        (1, {}, {"worker": None}),
        (3, {}, {"worker-0": "0", "worker-1": "1", "worker-2": "2"}),
        (3, {"CUDA_VISIBLE_DEVICES": "1"}, {"worker": "1"}),
    ],
    ids=["none", "one", "three", "the shell chose"],
)
def test_there_is_a_worker_for_each_gpu(
    gpus: int, shell: dict[str, str], seen: dict[str, str | None], tmp_path: Path
) -> None:
    for number in range(gpus):
        tmp_path.joinpath(f"0000:0{number}:00.0").mkdir()
    started = workers(shell, tmp_path if gpus else tmp_path / "nothing")
    assert {process.name: process.environment.get("CUDA_VISIBLE_DEVICES") for process in started} == seen
    assert len({process.argv[process.argv.index("--hostname") + 1] for process in started}) == len(started)
