"""The database administered from the command line, by a real process of the service."""

from __future__ import annotations

import json
from pathlib import Path

import obstore
import pytest
from sqlalchemy import select

from redeem.cli import main
from redeem.errors import RedeemError
from redeem.local.admin import administer
from service.settings import Settings
from service.store import blob_key
from service.tables import UploadRow
from tests.service.running import serving


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


def test_a_backup_is_made_restored_and_told_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, file = tmp_path / "data", tmp_path / "backup.db"
    with serving(Settings(data=data)) as service:
        upload = service.upload("model")
        with service.parts.readers() as session:
            sha256 = session.scalars(select(UploadRow.sha256)).one()
        assert sha256 is not None
        obstore.delete(service.parts.store, blob_key(sha256))
    capsys.readouterr()
    assert run("db", "backup", file, "--data", data) == 0
    said = capsys.readouterr().out
    assert f"{file}: {file.stat().st_size} bytes, sha256 " in said
    assert "1 tenants, 1 uploads" in said
    assert run("db", "restore", file, "--data", data) == 0
    said = capsys.readouterr().out
    assert "what was there before is " in said
    assert "0 of 1 files that the database names are there" in said
    assert f"{sha256} is not: upload {upload}" in said
    assert run("db", "blobs", "--data", data, "--json") == 2
    assert json.loads(capsys.readouterr().out)["lost"] == [{"sha256": sha256, "by": [f"upload {upload}"]}]
