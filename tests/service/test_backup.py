from __future__ import annotations

import json
import resource
import shutil
import sqlite3
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import obstore
import pytest
from alembic import command
from sqlalchemy import Engine, make_url, select

from redeem.contract import JobState
from redeem.local.folder import locked
from service import admin, audit, blobs, database, migrate, upkeep
from service.backup import (
    BackupUnwritable,
    DatabaseDamaged,
    DatabaseInUse,
    NoDatabase,
    NotABackup,
    NotSqlite,
    back_up,
    examine,
    restore,
)
from service.database import open_engine
from service.migrate import NewerDatabase
from service.settings import Settings
from service.store import blob_key, open_store
from service.tables import AuditRow, JobRow
from tests.postgres import find_postgres
from tests.service.running import Service, problem, serving, wait_until


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "backup.db"


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, UUID]:
    """A data folder that has been used and is at rest, and a job of it."""
    settings = Settings(data=tmp_path_factory.mktemp("data"))
    with serving(settings) as service:
        return settings.data, finished(service)


@pytest.fixture
def used(settings: Settings, template: tuple[Path, UUID]) -> UUID:
    """Such a folder, and its job."""
    shutil.copytree(template[0], settings.data)
    return template[1]


def finished(service: Service) -> UUID:
    job = service.job()
    service.artifact(job, "purified.safetensors", str(job).encode())
    service.change(job, state=JobState.running)
    service.change(job, state=JobState.succeeded)
    return job


def jobs(file: Path) -> set[UUID]:
    with closing(sqlite3.connect(file)) as connection:
        return {UUID(id) for (id,) in connection.execute("SELECT id FROM jobs")}


@pytest.fixture
def submitting(settings: Settings) -> Iterator[Callable[[], set[UUID]]]:
    """While threads submit to a server: which jobs it has taken so far."""
    taken, stop, errors = set[UUID](), threading.Event(), list[BaseException]()
    with serving(settings) as service:
        body = {"model": service.model(), "clean": service.bundle()}

        def submit() -> None:
            try:
                while not stop.is_set():
                    taken.add(UUID(service.post("/v1/jobs", body, 202)["id"]))
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=submit) for _ in range(3)]
        for thread in threads:
            thread.start()
        yield taken.copy
        stop.set()
        for thread in threads:
            thread.join()
        assert errors == []


def test_a_backup_under_writes_has_all_that_was_committed_and_nothing_by_halves(
    settings: Settings, submitting: Callable[[], set[UUID]], tmp_path: Path
) -> None:
    wait_until(lambda: len(submitting()) > 20)
    first = submitting()
    for number in range(4):
        before, file = submitting(), tmp_path / f"{number}.db"
        told = back_up(settings, str(file))
        assert before <= jobs(file)
        assert told["rows"]["jobs"] == len(jobs(file))
        with closing(sqlite3.connect(file)) as connection:
            assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
            # A job and the first line of its history are written together.
            silent = "SELECT count(*) FROM jobs WHERE id NOT IN (SELECT job_id FROM job_events)"
            assert connection.execute(silent).fetchone() == (0,)
    assert submitting() > first, "nobody wrote meanwhile"
    assert {path.name for path in tmp_path.iterdir()} == {"data", "0.db", "1.db", "2.db", "3.db"}


def test_a_backup_tells_what_it_holds(settings: Settings, used: UUID, file: Path) -> None:
    told = back_up(settings, str(file))
    assert (told["file"], told["revision"], told["size"]) == (str(file), migrate.head(), file.stat().st_size)
    assert told["rows"]["jobs"] == told["rows"]["artifacts"] == 1
    assert told["sha256"] == subprocess.check_output(["sha256sum", file], text=True).split()[0]
    assert file.stat().st_mode & 0o777 == 0o600


def test_what_was_deleted_is_not_in_a_backup(settings: Settings, file: Path) -> None:
    with serving(settings) as service:
        job = service.job(labels={"name": "unmistakable"})
        service.post(f"/v1/jobs/{job}/cancel", None, 202)
        service.http.delete(f"/v1/jobs/{job}").raise_for_status()
    back_up(settings, str(file))
    assert b"unmistakable" not in file.read_bytes()


def test_a_backup_overwrites_nothing(settings: Settings, used: UUID, file: Path, tmp_path: Path) -> None:
    file.write_text("something else")
    with pytest.raises(BackupUnwritable, match="is there already"):
        back_up(settings, str(file))
    with pytest.raises(BackupUnwritable, match="cannot be written"):
        back_up(settings, str(tmp_path / "nowhere" / "backup.db"))
    assert file.read_text() == "something else"


def test_without_a_database_there_is_no_backup_and_none_is_made(settings: Settings, file: Path) -> None:
    with pytest.raises(NoDatabase):
        back_up(settings, str(file))
    assert not settings.data.exists()


def test_a_backup_that_breaks_off_leaves_nothing(settings: Settings, used: UUID, file: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (16 * 2**10, hard))
    try:
        with pytest.raises(BackupUnwritable, match="cannot be copied"):
            back_up(settings, str(file))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(file.parent.iterdir()) == [settings.data]


def damage(file: Path) -> None:
    """Swap two entries of an index: every page can be read, and the file is wrong all the same."""
    content = file.read_bytes()
    with closing(sqlite3.connect(file)) as connection:
        (size,) = connection.execute("PRAGMA page_size").fetchone()
        (page,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'ix_uploads_sha256'").fetchone()
    cells = size * (page - 1) + 8
    first, second = content[cells : cells + 2], content[cells + 2 : cells + 4]
    file.write_bytes(content[:cells] + second + first + content[cells + 4 :])


def test_a_damaged_database_gives_no_backup(settings: Settings, used: UUID, file: Path) -> None:
    source = settings.data / "redeem.db"
    source.write_bytes(source.read_bytes()[:30_000])
    with pytest.raises(DatabaseDamaged, match="is damaged: not all of it"):
        back_up(settings, str(file))
    assert list(file.parent.iterdir()) == [settings.data]


def spoiled(kind: str, backup: Path, folder: Path) -> Path:
    """A file that is not to be restored."""
    made = folder / f"{kind}.db"
    shutil.copy(backup, made)
    match kind:
        case "missing":
            made.unlink()
        case "text":
            made.write_text("this is a letter\n" * 100)
        case "empty":
            made.write_bytes(b"")
        case "another":
            made.unlink()
            with closing(sqlite3.connect(made)) as connection:
                connection.execute("CREATE TABLE alembic_version (version_num)")
        case "cut":
            made.write_bytes(backup.read_bytes()[:-8192])
        case "index":
            damage(made)
        case "orphan":
            with closing(sqlite3.connect(made)) as connection:
                connection.execute("DELETE FROM models")
                connection.commit()
        case "newer":
            with closing(sqlite3.connect(made)) as connection:
                connection.execute("UPDATE alembic_version SET version_num = '9999'")
                connection.commit()
    return made


@pytest.mark.parametrize(
    ("kind", "refusal"),
    [
        ("missing", NotABackup),
        ("text", NotABackup),
        ("empty", NotABackup),
        ("another", NotABackup),
        ("cut", DatabaseDamaged),
        ("index", DatabaseDamaged),
        ("orphan", DatabaseDamaged),
        ("newer", NewerDatabase),
    ],
)
def test_what_cannot_be_restored_changes_nothing(
    settings: Settings, used: UUID, file: Path, tmp_path: Path, kind: str, refusal: type[Exception]
) -> None:
    back_up(settings, str(file))
    there = {path: path.read_bytes() for path in settings.data.glob("redeem.db*")}
    bad = spoiled(kind, file, tmp_path)
    with pytest.raises(refusal) as told:
        restore(settings, str(bad))
    assert str(bad) in str(told.value) or kind == "newer"
    assert {path: path.read_bytes() for path in settings.data.glob("*redeem.db*")} == there


def test_a_database_is_not_restored_onto_itself(settings: Settings, used: UUID) -> None:
    with pytest.raises(NotABackup, match="the database itself"):
        restore(settings, str(settings.data / "redeem.db"))


def test_nothing_is_restored_under_a_server(settings: Settings, used: UUID, file: Path) -> None:
    back_up(settings, str(file))
    with serving(settings) as service:  # which holds no lock, but has the file open
        with pytest.raises(DatabaseInUse, match="Another process"):
            restore(settings, str(file))
        assert service.job() in jobs(settings.data / "redeem.db")
    with locked(settings.data), pytest.raises(DatabaseInUse, match="another server"):
        restore(settings, str(file))
    restore(settings, str(file))


def test_what_was_there_at_the_backup_is_there_again(settings: Settings, file: Path) -> None:
    with serving(settings) as service:
        early = finished(service)
        back_up(settings, str(file))
        late = finished(service)
    told = restore(settings, str(file))
    assert late in jobs(Path(told["replaced"]))
    assert (settings.data / "redeem.db").stat().st_mode & 0o777 == 0o600
    with serving(settings) as service:
        assert service.http.get(f"/v1/jobs/{early}").json()["state"] == "succeeded"
        assert service.http.get(f"/v1/jobs/{early}/weights").content == str(early).encode()
        problem(service.http.get(f"/v1/jobs/{late}"), 404, "not_found")
        service.job()
        with service.parts.readers() as session:
            assert audit.verify(session).faults == []
            restored = session.scalars(select(AuditRow).where(AuditRow.action == "database.restored")).one()
            assert (restored.actor, restored.object) == ("operator", told["sha256"])


def test_what_the_rows_name_and_the_store_lacks_is_told(settings: Settings, file: Path) -> None:
    settings = settings.model_copy(update={"blob_grace": timedelta(0)})
    with serving(settings) as service:
        early = finished(service)
        back_up(settings, str(file))
        (artifact,) = service.http.get(f"/v1/jobs/{early}/artifacts").json()
        service.http.delete(f"/v1/jobs/{early}").raise_for_status()  # and its file goes at once
        finished(service)
    restore(settings, str(file))
    engine = open_engine(settings)
    with database.readers(engine)() as session:
        compared = blobs.compare(session, open_store(settings))
    engine.dispose()
    assert [(each.sha256, each.by) for each in compared.lost] == [
        (artifact["sha256"], [f"job {early}: purified.safetensors"])
    ]
    assert (compared.named, compared.unnamed) == (2, 1)  # the file of the job that is gone
    with serving(settings) as service:
        problem(service.http.get(f"/v1/jobs/{early}/weights"), 500, "artifact_lost")
        assert upkeep.clean(service.parts) == 1
        assert service.http.get(f"/v1/jobs/{early}").json()["state"] == "succeeded"


def test_a_lost_upload_is_mended_by_sending_it_again(settings: Settings, used: UUID) -> None:
    with serving(settings) as service:
        digest = str(service.http.get(f"/v1/uploads/{service.upload('model')}").json()["sha256"])
        obstore.delete(service.parts.store, blob_key(digest))
        with service.parts.readers() as session:
            assert [each.sha256 for each in blobs.compare(session, service.parts.store).lost] == [digest]
        service.upload("model")
        with service.parts.readers() as session:
            assert blobs.compare(session, service.parts.store).lost == []


def test_an_older_backup_is_brought_forward(settings: Settings, engine: Engine, file: Path) -> None:
    with engine.begin() as connection:
        command.upgrade(migrate.config(connection), "0005")
    told = back_up(settings, str(file))
    migrate.upgrade(engine)
    engine.dispose()
    assert told["revision"] == "0005"
    assert restore(settings, str(file))["migrated"] == migrate.head()
    assert examine(settings.data / "redeem.db").revision == migrate.head()


def test_a_broken_database_is_replaced_and_its_log_is_not_taken_for_the_new_ones(
    settings: Settings, used: UUID, file: Path
) -> None:
    back_up(settings, str(file))
    broken = settings.data / "redeem.db"
    broken.write_bytes(b"broken" * 1000)
    (settings.data / "redeem.db-wal").write_bytes(b"its log")
    replaced = Path(restore(settings, str(file))["replaced"])
    assert replaced.read_bytes() == b"broken" * 1000
    assert {path.name for path in settings.data.glob("redeem.db*")} <= {
        "redeem.db", replaced.name, f"{replaced.name}-wal", f"{replaced.name}-shm"
    }  # fmt: skip
    assert used in jobs(broken)


def test_a_backup_makes_a_server_where_there_was_none(settings: Settings, used: UUID, file: Path) -> None:
    back_up(settings, str(file))
    elsewhere = settings.model_copy(update={"data": settings.data.parent / "elsewhere"})
    assert restore(elsewhere, str(file))["replaced"] is None
    with serving(elsewhere) as service, service.parts.readers() as session:
        assert session.scalars(select(JobRow.id)).all() == [used]


def test_postgresql_is_left_to_its_own_tools(postgres_url: str, tmp_path: Path, file: Path) -> None:
    settings = Settings(data=tmp_path, database_url=postgres_url.replace("redeem@", "redeem:secret@"))
    with serving(settings) as service:
        job = finished(service)
    hints = []
    for what in (back_up, restore):
        with pytest.raises(NotSqlite) as told:
            what(settings, str(file))
        assert "secret" not in told.value.hint
        hints.append(
            told.value.hint.removeprefix("Run: ").removesuffix(", and name that database in REDEEM_DATABASE_URL")
        )
    tools = {"PATH": f"{find_postgres()}:/usr/bin:/bin"}
    for hint in hints:
        subprocess.run(["bash", "-c", hint], env=tools, check=True)
    url = make_url(postgres_url)
    engine = open_engine(
        settings.model_copy(update={"database_url": url.set(database=f"{url.database}_restored").render_as_string()})
    )
    with database.readers(engine)() as session:
        assert session.scalars(select(JobRow.id)).all() == [job]
        assert audit.verify(session).faults == []
    engine.dispose()


def test_a_store_that_does_not_answer_does_not_hold_up_a_restore(
    settings: Settings, used: UUID, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    back_up(settings, str(file))
    elsewhere = settings.model_copy(update={"store_url": "nowhere://redeem"})
    assert admin.main("db restore", {"file": str(file)}, elsewhere) == 0
    answer = json.loads(capsys.readouterr().out)
    assert "nowhere" in answer["blobs"]["error"]
    assert Path(answer["replaced"]).exists()
