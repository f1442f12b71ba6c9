"""`redeem serve` as a user runs it: a process of its own, with the worker."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from redeem.client import Client
from redeem.local.network import free_port
from redeem.local.server import local_server

Living = Callable[[str], dict[int, str]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []

    def started_with(*arguments: object) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "redeem", *map(str, arguments)]
        # A shell's background job ignores Ctrl-C, and so would all its children; one that is handled is theirs to have.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        popen = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
        started.append(popen)
        return popen

    yield started_with
    for popen in started:
        popen.kill()
        popen.communicate()


def up(serving: subprocess.Popen[str]) -> dict[str, str]:
    """The line that says where it serves."""
    assert serving.stdout is not None
    line = serving.stdout.readline()
    assert line, serving.communicate()[1]
    return dict(json.loads(line))


def gone(folder: Path, living: Living, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while living(str(folder)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return living(str(folder)) == {}


def test_ctrl_c_stops_it_without_a_trace(start: Any, tmp_path: Path, living: Living) -> None:
    data = tmp_path / "data"
    serving = start("serve", "--data", data, "--port", free_port(), "--json")
    address = up(serving)
    with Client(address["url"], Path(address["key_file"]).read_text().strip()) as client:
        assert list(client.jobs()) == []
    serving.send_signal(signal.SIGINT)
    _, err = serving.communicate(timeout=60)  # its three processes may take 20 s together before they are killed
    assert (serving.returncode, "Traceback" in err) == (0, False)
    assert living(str(data)) == {}


def test_kill_9_leaves_nothing_and_frees_the_folder(
    start: Any, tmp_path: Path, without_worker: Any, living: Living
) -> None:
    data, port = tmp_path / "data", free_port()
    serving = start("serve", "--data", data, "--port", port, "--json")
    address = up(serving)
    commands = " ".join(living(str(data)).values())
    assert all(part in commands for part in ("valkey-server", "uvicorn", "celery", "billiard"))
    serving.kill()
    assert gone(data, living, seconds=60)
    with local_server(data, port, processes=without_worker) as again:
        assert again.url == address["url"]


def test_stopping_while_it_starts_leaves_nothing(start: Any, tmp_path: Path, living: Living) -> None:
    data = tmp_path / "data"
    serving = start("serve", "--data", data, "--port", free_port())
    while not any("uvicorn" in command for command in living(str(data)).values()):
        time.sleep(0.02)
    serving.send_signal(signal.SIGTERM)
    serving.communicate(timeout=20)
    assert serving.returncode == 0
    assert living(str(data)) == {}


@pytest.mark.parametrize("taken", ["port", "folder"])
def test_what_is_taken_is_told_without_a_traceback(
    start: Any, server: Any, data: Path, tmp_path: Path, taken: str
) -> None:
    port = server.url.rpartition(":")[2] if taken == "port" else free_port()
    refused = start("serve", "--port", port, "--data", data if taken == "folder" else tmp_path / "data", "--json")
    out, err = refused.communicate(timeout=20)
    assert (refused.returncode, out) == (2, "")
    assert json.loads(err.splitlines()[-1])["code"] == {"port": "port_taken", "folder": "data_locked"}[taken]
    assert os.path.exists(data / "lock")
