from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from service import admin, migrate
from service.settings import Settings
from service.store import open_store, put_bytes


def run(capsys: pytest.CaptureFixture[str], command: str, settings: Settings) -> tuple[int, Any]:
    capsys.readouterr()
    code = admin.main(command, {}, settings)
    return code, json.loads(capsys.readouterr().out)


def test_a_new_database_is_brought_to_the_newest_migration(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    new = {"database": "sqlite", "revision": None, "newest": migrate.head(), "fits": False}
    assert run(capsys, "db check", settings) == (0, new)
    upgraded = new | {"revision": migrate.head(), "fits": True}
    for _ in range(2):
        assert run(capsys, "db upgrade", settings) == (0, upgraded)
    assert run(capsys, "db check", settings) == (0, upgraded)


def test_a_database_of_a_newer_release_fits_and_is_not_migrated(
    settings: Settings, engine: Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    migrate.upgrade(engine)
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    code, answer = run(capsys, "db check", settings)
    assert (code, answer["revision"], answer["fits"]) == (0, "9999", True)
    code, answer = run(capsys, "db upgrade", settings)
    assert (code, answer["error"]["code"]) == (2, "database_newer")


def test_a_database_that_does_not_answer_is_a_clear_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = Settings(data=tmp_path, database_url=f"sqlite:///{tmp_path}")
    code, answer = run(capsys, "db upgrade", settings)
    assert code == 2
    assert answer["error"]["code"] == "database_unavailable"
    assert "unable to open database file" in answer["error"]["detail"]


def test_what_nothing_names_is_collected(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    settings = settings.model_copy(update={"blob_grace": timedelta(0)})
    run(capsys, "db upgrade", settings)
    put_bytes(open_store(settings), b"nobody's")
    assert run(capsys, "db gc", settings) == (0, {"removed": 1})
    assert run(capsys, "db gc", settings) == (0, {"removed": 0})
