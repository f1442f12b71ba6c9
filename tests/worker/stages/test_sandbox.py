"""The child that reads uploads: what it may do, what it may not, and what becomes of one that tries."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from worker.stages import sandbox
from worker.stages.confinement import Limits, layers
from worker.stages.errors import (
    EmptyBundle,
    ReadingFailed,
    ReadingForbidden,
    ReadingKilled,
    ReadingTooLarge,
    ReadingTooSlow,
)

SMALL = Limits(memory=64 * 2**20, cpu=20, wall=60, file=2**20, files=16)
LINUX = pytest.mark.skipif(not (layers()["landlock"] and layers()["seccomp"]), reason="this kernel has no such layer")


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sandbox, "CHILD", "tests.worker.stages.misbehaving")
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "input").write_text("input")
    return tmp_path / "input"


def run(source: Path, task: str, limits: Limits = SMALL, **arguments: Any) -> dict[str, Any]:
    return sandbox.run(task, source, source.parent / "out", arguments, limits)


def test_it_reads_its_input_and_writes_into_its_folder(source: Path) -> None:
    deeds = ["read its input", "write into its folder"]
    assert run(source, "attempts", names=deeds) == dict.fromkeys(deeds, "done")
    assert (source.parent / "out/file").read_text() == "x"


@LINUX
def test_the_kernel_refuses_everything_else(source: Path) -> None:
    """Called in C, past Python's audit events."""
    deeds = [
        "fork in C",
        "socket in C",
        "execute in C",
        "read in C",
        "write in C",
        "unlink in C",
        "kill its parent",
        "trace",
        "raise its limits",
    ]
    assert run(source, "attempts", names=deeds) == dict.fromkeys(deeds, "PermissionError")
    assert sorted(path.name for path in source.parent.iterdir()) == ["input", "out", "out.log", "secret"]


def test_python_code_is_refused_other_files_on_every_system(source: Path) -> None:
    deeds = ["read another file", "write another file", "list a folder", "link out of its folder"]
    assert run(source, "attempts", names=deeds) == dict.fromkeys(deeds, "PermissionError")
    assert not (source.parent / "canary").exists()


@LINUX
def test_its_input_is_not_changed_and_no_thread_is_made(source: Path) -> None:
    deeds = {"change its input": "PermissionError", "make a thread": "RuntimeError"}
    assert run(source, "attempts", names=list(deeds)) == deeds
    assert source.read_text() == "input"


@pytest.mark.parametrize("deed", ["start a program", "fork", "open a socket", "compile"])
def test_whoever_tries_what_no_reader_needs_is_not_believed(source: Path, deed: str) -> None:
    with pytest.raises(ReadingForbidden, match=r"its reader tried (subprocess|os\.fork|socket|compile)"):
        run(source, "attempts", names=[deed])


@pytest.mark.parametrize(
    ("task", "error"),
    [
        ("take_memory", ReadingTooLarge),
        ("map_memory", ReadingTooLarge),
        ("write_much", ReadingTooLarge),
        ("open_many", ReadingTooLarge),
        ("crash", ReadingFailed),
        ("break_down", ReadingFailed),
    ],
)
def test_limits_and_crashes_are_errors_with_a_code(source: Path, task: str, error: type[Exception]) -> None:
    with pytest.raises(error) as caught:
        run(source, task)
    assert "/a/path" not in str(caught.value)


@pytest.mark.parametrize(("task", "limits"), [("wait", Limits(wall=2)), ("compute", Limits(cpu=1, wall=60))])
def test_a_child_that_does_not_end_is_killed(source: Path, task: str, limits: Limits) -> None:
    begun = time.monotonic()
    with pytest.raises(ReadingTooSlow):
        run(source, task, limits)
    assert time.monotonic() - begun < 30


def _killed(times: int, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So many readers are killed, with something of theirs in the folder."""
    popen, started = subprocess.Popen, []

    def start(*argv: Any, **options: Any) -> Any:
        child = popen(*argv, **options)
        started.append(child)
        if len(started) <= times:
            (source.parent / "out" / "left").write_text("x")
            child.kill()
        return child

    monkeypatch.setattr(subprocess, "Popen", start)


def test_a_file_whose_reader_was_killed_is_read_once_more(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _killed(1, source, monkeypatch)
    deeds = ["read its input", "write into its folder"]
    assert run(source, "attempts", names=deeds) == dict.fromkeys(deeds, "done")
    assert not (source.parent / "out" / "left").exists()


def test_a_file_whose_readers_are_killed_has_a_code(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _killed(2, source, monkeypatch)
    with pytest.raises(ReadingKilled):
        run(source, "attempts", names=[])


def test_a_refusal_comes_back_as_it_was_raised(source: Path) -> None:
    with pytest.raises(EmptyBundle, match="nothing in it") as caught:
        run(source, "refuse")
    assert caught.value.hint == "Put something in."


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", '{"result": 1}', '{"error": "x"}', "[" * 100_000, '{"result": {"a": "' + "a" * 5 * 2**20 + '"}}'],
)
def test_an_answer_is_a_claim(source: Path, content: str) -> None:
    with pytest.raises(ReadingFailed):
        run(source, "answer_nonsense", Limits(), content=content) if len(content) < 2**17 else _read(source, content)


def _read(source: Path, content: str) -> None:
    """An argument of a command line cannot be so long."""
    path = source.parent / sandbox.RESULT
    path.write_text(content)
    if sandbox._answer(path) is None:
        raise ReadingFailed("no answer")


def test_the_words_of_an_error_are_cut(source: Path) -> None:
    told = {"error": {"code": "no_such_code", "message": "m" * 5_000, "hint": None}}
    with pytest.raises(ReadingFailed) as caught:
        run(source, "answer_nonsense", content=json.dumps(told))
    assert str(caught.value) == "m" * 1_000


def test_a_link_is_no_answer(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text('{"result": {}}')
    (tmp_path / "link").symlink_to(tmp_path / "secret")
    os.mkfifo(tmp_path / "pipe")
    assert sandbox._answer(tmp_path / "link") is None
    assert sandbox._answer(tmp_path / "pipe") is None


def test_nothing_is_inherited(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    monkeypatch.setenv("REDEEM_API_KEY", "secret")
    with (source.parent / "secret").open() as opened:
        os.set_inheritable(opened.fileno(), True)
        seen = run(source, "see")
    assert seen["descriptors"] == []
    assert set(seen["environment"]) - {"LC_CTYPE"} == set(sandbox.ENVIRONMENT)
    assert seen["session"]
    assert not {"torch", "numpy", "celery", "sqlalchemy"} & set(seen["modules"])
