from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from sqlalchemy import Engine

from redeem.access import Scope
from service import audit, key_admin, migrate, notes
from service.audit_admin import export, verify
from service.database import open_engine, readers, sessions
from service.settings import Settings
from service.tables import AuditRow
from tests.service.running import Service, serving, wait_until

LOOSEN = {
    "sqlite": ["DROP TRIGGER audit_log_no_update", "DROP TRIGGER audit_log_no_delete"],
    "postgresql": ["DROP TRIGGER audit_log_only_grows ON audit_log"],
}
"""What somebody does first who wants to falsify the log."""


@pytest.fixture
def database_url(either_database: str) -> str:
    return either_database


@pytest.fixture
def engine(settings: Settings) -> Iterator[Engine]:
    made = open_engine(settings)
    migrate.upgrade(made)
    with sessions(made).begin() as session:
        for number in range(1, 7):
            audit.note(session, "thing.made", f"thing {number}")
    yield made
    made.dispose()


def faults(engine: Engine, head: str | None = None) -> list[str]:
    with readers(engine)() as session:
        return audit.verify(session, head).faults


def falsify(engine: Engine, *statements: str) -> None:
    with engine.begin() as connection:
        for statement in [*LOOSEN[engine.dialect.name], *statements]:
            connection.exec_driver_sql(statement)


def test_a_chain_that_nobody_touched_is_whole(engine: Engine) -> None:
    with readers(engine)() as session:
        found = audit.verify(session)
    assert (found.rows, found.faults) == (6, [])
    assert faults(engine, found.head) == []


@pytest.mark.parametrize("statement", ["UPDATE audit_log SET actor = 'me'", "DELETE FROM audit_log WHERE seq = 2"])
def test_the_database_refuses_changes(engine: Engine, statement: str) -> None:
    with pytest.raises(sa.exc.DBAPIError, match="append-only"), engine.begin() as connection:
        connection.exec_driver_sql(statement)
    assert faults(engine) == []


@pytest.mark.parametrize(
    "column", ["actor", "action", "object", "outcome", "address", "request", "at", "tenant", "hash"]
)
def test_a_changed_row_is_found_whatever_was_changed(engine: Engine, column: str) -> None:
    other = {"at": "'2020-01-01 00:00:00'", "tenant": "'00000000000070008000000000000000'"}.get(column, "'other'")
    falsify(engine, f"UPDATE audit_log SET {column} = {other} WHERE seq = 3")  # noqa: S608
    assert "row 3 was changed" in faults(engine)
    assert all("row 3" in fault for fault in faults(engine))


def test_a_row_changed_with_a_hash_that_fits_does_not_fit_the_next(engine: Engine) -> None:
    falsify(engine)
    with sessions(engine).begin() as session:
        row = session.get_one(AuditRow, 3)
        row.actor = "somebody else"
        row.hash = audit.row_hash(row)
    assert faults(engine) == ["row 4 does not follow row 3: one of them was changed"]


def test_removed_and_swapped_rows_are_found(engine: Engine) -> None:
    falsify(engine, "DELETE FROM audit_log WHERE seq IN (2, 5)")
    assert faults(engine) == ["row 2 is missing", "row 5 is missing"]
    swap = [f"UPDATE audit_log SET seq = {new} WHERE seq = {old}" for old, new in ((3, 9), (4, 3), (9, 4))]  # noqa: S608
    with engine.begin() as connection:
        for statement in swap:
            connection.exec_driver_sql(statement)
    assert {"row 3 was changed", "row 4 was changed"} <= set(faults(engine))


def test_rows_cut_off_the_end_are_found_by_the_head_that_was_kept(engine: Engine) -> None:
    with readers(engine)() as session:
        head = audit.verify(session).head
    falsify(engine, "DELETE FROM audit_log WHERE seq > 4")
    assert faults(engine) == []
    assert "cut off" in faults(engine, head)[0]


def test_what_is_rolled_back_is_not_told(engine: Engine) -> None:
    with sessions(engine)() as session:
        session.begin()
        audit.note(session, "thing.made", "never")
        session.rollback()
        session.commit()
    with readers(engine)() as session:
        assert audit.verify(session).rows == 6


def test_writers_at_the_same_time_keep_one_chain(settings: Settings, engine: Engine) -> None:
    def write(number: int) -> None:
        with sessions(engine).begin() as session:
            audit.note(session, "thing.made", f"by writer {number}")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(40)))
    with readers(engine)() as session:
        found = audit.verify(session)
    assert (found.rows, found.faults) == (46, [])


def test_the_operators_commands_read_it(settings: Settings, engine: Engine) -> None:
    made = key_admin.create_key(settings, "k", "default", ["read"], None)
    key_admin.revoke_key(settings, made["prefix"])
    rows = export(settings, 6)["rows"]
    assert [(row["actor"], row["action"], row["object"]) for row in rows] == [
        ("operator", "key.created", made["prefix"]),
        ("operator", "key.revoked", made["prefix"]),
    ]
    assert verify(settings, rows[-1]["hash"]) == {"rows": 8, "head": rows[-1]["hash"], "faults": []}


@pytest.fixture
def service(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    monkeypatch.setattr(notes, "EVERY", 0.05)
    monkeypatch.setattr(notes, "MOST_REFUSALS", 3)
    with serving(Settings(data=tmp_path)) as running:
        yield running


def told(service: Service) -> list[AuditRow]:
    with service.parts.readers() as session:
        return list(session.scalars(sa.select(AuditRow).order_by(AuditRow.seq)))


def test_what_a_caller_does_is_told_with_who_and_whence(service: Service) -> None:
    job = str(service.job())
    service.http.post(f"/v1/jobs/{job}/cancel", headers={"X-Request-Id": "my-request"})
    rows = told(service)
    actions = [row.action for row in rows]
    for action in (
        "key.created",
        "upload.created",
        "upload.completed",
        "model.created",
        "bundle.created",
        "job.created",
    ):
        assert action in actions
    last = rows[-1]
    assert (last.action, last.object, last.request, last.address) == ("job.cancelled", job, "my-request", "127.0.0.1")
    assert last.actor.startswith("key:")
    with service.parts.readers() as session:
        assert audit.verify(session).faults == []


def test_what_is_deleted_and_what_becomes_of_secrets_is_told(service: Service) -> None:
    job = service.job()
    made = service.http.get(f"/v1/jobs/{job}").json()
    service.http.post(f"/v1/jobs/{job}/cancel")
    webhook = service.post("/v1/webhooks", {"url": "https://93.184.215.14/hook"}, 201)["id"]
    for way, path in (
        ("POST", f"/v1/webhooks/{webhook}/rotate"),
        ("POST", f"/v1/webhooks/{webhook}/enable"),
        ("DELETE", f"/v1/webhooks/{webhook}"),
        ("DELETE", f"/v1/jobs/{job}"),
        ("DELETE", f"/v1/models/{made['model']}"),
        ("DELETE", f"/v1/bundles/{made['clean']}"),
    ):
        assert service.http.request(way, path).is_success, path
    assert [(row.action, row.object) for row in told(service)[-6:]] == [
        ("webhook.rotated", webhook),
        ("webhook.enabled", webhook),
        ("webhook.deleted", webhook),
        ("job.deleted", str(job)),
        ("model.deleted", made["model"]),
        ("bundle.deleted", made["clean"]),
    ]


def test_refusals_are_told_at_a_bounded_rate(service: Service) -> None:
    reader = service.key(scopes=[Scope.read])
    httpx.post(f"{service.url}/v1/uploads", headers={"Authorization": f"Bearer {reader}"})
    for _ in range(20):
        httpx.get(f"{service.url}/v1/jobs")
    wait_until(lambda: any(row.action == "request.refused" for row in told(service)))
    refused = [row for row in told(service) if row.action == "request.refused"]
    assert (refused[0].object, refused[0].outcome) == ("POST /v1/uploads", "missing_scope")
    assert refused[0].actor == f"key:{reader.split('_')[1]}"
    wait_until(lambda: any(row.outcome == "unauthorized" for row in told(service)))
