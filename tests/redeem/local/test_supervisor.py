from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from redeem.errors import ServeError
from redeem.local import supervisor
from redeem.local.processes import Process
from redeem.local.supervisor import supervised
from redeem.settings import child_environment

SUPERVISE = """
import pathlib, sys, time
from redeem.local.processes import Process
from redeem.local.supervisor import supervised
from redeem.settings import child_environment

process = Process("sleeper", ("sh", "-c", "echo up; exec sleep 600"), child_environment(), lambda log: "up" in log)
with supervised([process], pathlib.Path(sys.argv[1])):
    print("up", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "logs").mkdir()
    return tmp_path


def shell(name: str, script: str, **changes: Any) -> Process:
    return Process(name, ("sh", "-c", script), child_environment(), lambda log: "up" in log, **changes)


def until(condition: Callable[[], Any], seconds: float = 15) -> Any:
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)
    return value


def test_each_starts_when_the_one_before_is_ready_and_stops_in_reverse(folder: Path) -> None:
    say = (
        "trap 'echo {0} stops >> order; exit' TERM; {1} echo {0} starts >> order; echo up; while :; do sleep 0.05; done"
    )
    with supervised(
        [shell("first", say.format("first", "sleep 0.3;")), shell("second", say.format("second", ""))], folder
    ):
        pass
    assert (folder / "order").read_text().splitlines() == [
        "first starts",
        "second starts",
        "second stops",
        "first stops",
    ]


def test_a_killed_process_comes_back(folder: Path) -> None:
    with supervised([shell("one", "echo $$ >> pids; echo up; exec sleep 600")], folder) as ended:
        (first,) = until(lambda: (folder / "pids").read_text().split())
        os.kill(int(first), signal.SIGKILL)
        until(lambda: len((folder / "pids").read_text().split()) == 2)
        assert not ended.done()


def test_what_keeps_dying_ends_it_all_with_its_last_lines(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "BACKOFF", 0.01)
    dying = shell("dying", "echo up; echo once >> lives; sleep 0.2; echo something broke; exit 3")
    with (
        supervised([shell("other", "echo up; exec sleep 600"), dying], folder) as ended,
        pytest.raises(ServeError) as error,
    ):
        ended.result(timeout=20)
    assert error.value.code == "keeps_dying"
    assert "dying died 5 times in a row (exit code 3)" in error.value.detail
    assert "something broke" in error.value.detail
    assert len((folder / "lives").read_text().split()) == 5


def test_what_does_not_start_is_told_with_its_last_lines(folder: Path) -> None:
    with (
        pytest.raises(ServeError, match="no such thing") as error,
        supervised([shell("a", "echo no such thing")], folder),
    ):
        pass
    assert error.value.code == "start_failed"


def test_an_old_log_does_not_pass_for_readiness(folder: Path) -> None:
    (folder / "logs" / "slow.log").write_text("up\n")
    slow = shell("slow", "exec sleep 600", ready_within=0.5)
    with pytest.raises(ServeError) as error, supervised([slow], folder):
        pass
    assert error.value.code == "start_timeout"


def test_nothing_of_a_stubborn_process_is_left(folder: Path, living: Callable[[str], dict[int, str]]) -> None:
    stubborn = shell("stubborn", "trap '' TERM; sleep 600 & echo up; while :; do sleep 0.1; done", grace=0.3)
    with supervised([stubborn], folder):
        assert len(living(str(folder))) >= 2
    assert living(str(folder)) == {}


def test_kill_9_of_the_supervisor_leaves_nothing(folder: Path, living: Callable[[str], dict[int, str]]) -> None:
    command = [sys.executable, "-c", SUPERVISE, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=folder.parent, text=True) as supervising:
        assert supervising.stdout is not None
        assert supervising.stdout.readline() == "up\n"
        assert any("sleep 600" in command for command in living(str(folder)).values())
        supervising.kill()
    until(lambda: living(str(folder)) == {}, seconds=5)
