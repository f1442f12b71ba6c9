"""The database administered from the command line, by a real process of the service."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from redeem.cli import main
from redeem.errors import RedeemError
from redeem.local.admin import administer


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as exit_:
        main([str(argument) for argument in arguments])
    assert isinstance(exit_.value.code, int)
    return exit_.value.code


@pytest.fixture(autouse=True)
def shell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REDEEM_DATABASE_URL", raising=False)


def test_a_database_is_checked_upgraded_and_checked_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("db", "check", "--data", tmp_path) == 2
    assert "`redeem db upgrade` brings it there" in capsys.readouterr().out
    assert run("db", "upgrade", "--data", tmp_path) == 0
    assert "the newest" in capsys.readouterr().out
    assert run("db", "check", "--data", tmp_path, "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["revision"] == answer["newest"]


def test_the_signing_key_is_rotated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("db", "upgrade", "--data", tmp_path) == 0
    keys = set()
    for _ in range(2):
        capsys.readouterr()
        assert run("signing", "rotate", "--data", tmp_path, "--json") == 0
        keys.add(json.loads(capsys.readouterr().out)["kid"])
    assert len(keys) == 2
    assert (tmp_path / "signing-key.pem").exists()


def test_the_database_is_the_one_that_the_shell_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("REDEEM_DATABASE_URL", "sqlite:////nowhere/at/all.db")
    assert run("db", "check", "--data", tmp_path) == 2
    assert "[database_unavailable]" in capsys.readouterr().err


def test_a_command_that_breaks_says_how(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDEEM_DATABASE_URL", "no address")
    with pytest.raises(RedeemError, match="Could not parse SQLAlchemy URL") as told:
        administer("db check", tmp_path)
    assert told.value.code == "admin_failed"
