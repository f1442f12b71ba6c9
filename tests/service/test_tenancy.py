"""That nothing of one tenant reaches another, by the wire and beneath it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import Select, delete, exists, func, insert, literal, select, text, update
from sqlalchemy.orm import Session, aliased

from redeem.contract import JobState
from service.tables import ArtifactRow, JobEventRow, JobRow, ModelRow, TenantRow, UploadRow
from service.tenancy import Caller, bound
from tests.service.running import Service


@pytest.fixture(scope="module")
def other(service: Service) -> Iterator[Service]:
    with service.as_tenant("other") as stranger:
        yield stranger


@pytest.fixture(scope="module")
def mine(service: Service) -> UUID:
    return service.job()


@pytest.fixture(scope="module")
def theirs(other: Service, mine: UUID) -> UUID:
    job = other.job()
    other.artifact(job, "report.json", b"{}")
    return job


@pytest.fixture
def session(service: Service, theirs: UUID) -> Iterator[Session]:
    """Bound to the first tenant, while there is another with a job of its own."""
    with service.parts.readers() as unbound:
        tenant = unbound.scalars(select(TenantRow.id).where(TenantRow.name == "default")).one()
    with bound(service.parts.sessions, Caller(tenant, "test"))() as session:
        yield session


ALIAS = aliased(JobRow)
WAYS: dict[str, Select[Any]] = {
    "row": select(JobRow.id),
    "entity": select(JobRow),
    "alias": select(ALIAS.id),
    "count of a condition": select(func.count()).where(JobRow.state != "nothing"),
    "count": select(func.count()).select_from(JobRow),
    "subquery": select(func.count()).select_from(select(JobRow.id).subquery()),
    "common table": select(func.count()).select_from(select(JobRow.id).cte()),
    "join": select(ModelRow.id).join(JobRow, JobRow.model_id == ModelRow.id),
    "what hangs on a job": select(JobEventRow.seq),
    "in": select(UploadRow.id).where(
        UploadRow.id.in_(select(ModelRow.upload_id).where(ModelRow.id.in_(select(JobRow.model_id))))
    ),
}


@pytest.mark.parametrize("way", WAYS)
def test_no_query_finds_what_another_tenant_owns(session: Session, service: Service, mine: UUID, way: str) -> None:
    found = session.execute(WAYS[way]).all()
    with service.parts.readers() as unbound:
        everything = unbound.execute(WAYS[way]).all()
    if "count" in way or way in ("subquery", "common table"):
        assert (found[0][0], everything[0][0]) == (1, 2)
    else:
        assert (len(found), len(everything)) == (1, 2)


def test_neither_a_key_nor_a_condition_reaches_another_tenants_row(session: Session, theirs: UUID) -> None:
    assert session.get(JobRow, theirs) is None
    assert session.scalars(select(ArtifactRow).where(ArtifactRow.job_id == theirs)).all() == []
    assert session.scalar(select(literal(1)).where(exists(select(JobRow.id).where(JobRow.id == theirs)))) is None
    union = select(JobRow.id).union(select(JobRow.id).where(JobRow.id == theirs))
    assert theirs not in session.scalars(union).all()


def test_updates_and_deletes_end_at_the_tenant(session: Session, service: Service, mine: UUID, theirs: UUID) -> None:
    changed = session.scalars(update(JobRow).values(state=JobState.cancelled).returning(JobRow.id)).all()
    assert changed == [mine]
    assert session.execute(delete(ArtifactRow)).rowcount == 0  # type: ignore[attr-defined]
    session.rollback()
    assert service.row(theirs).state == JobState.queued


def test_new_rows_get_the_tenant_and_no_other(session: Session) -> None:
    row = UploadRow(kind="model", filename="file")
    session.add(row)
    session.flush()
    assert row.tenant_id == session.info["caller"].tenant
    session.add(UploadRow(kind="model", filename="file", tenant_id=uuid4()))
    with pytest.raises(RuntimeError, match="tenant"):
        session.flush()


@pytest.mark.parametrize(
    "statement", [text("SELECT * FROM jobs"), select(JobRow.__table__), insert(UploadRow).values(filename="file")]
)
def test_what_would_go_past_the_criterion_is_refused(session: Session, statement: Any) -> None:
    with pytest.raises(RuntimeError, match="tenant's session"):
        session.execute(statement)


def test_another_tenants_objects_do_not_exist(service: Service, other: Service, mine: UUID) -> None:
    job = service.http.get(f"/v1/jobs/{mine}").json()
    nothing = str(uuid4())
    ids = {"jobs": str(mine), "models": job["model"], "bundles": job["clean"]}
    ids["uploads"] = service.http.get(f"/v1/models/{job['model']}").json()["upload"]
    for kind, id in ids.items():
        assert service.http.get(f"/v1/{kind}/{id}").status_code == 200
        answers = [other.http.get(f"/v1/{kind}/{which}", headers={"X-Request-Id": "same"}) for which in (id, nothing)]
        bodies = [answer.text.replace(which, "ID") for answer, which in zip(answers, (id, nothing), strict=True)]
        assert [answer.status_code for answer in answers] == [404, 404]
        assert bodies[0] == bodies[1]


def test_lists_show_the_tenants_own(service: Service, other: Service, mine: UUID, theirs: UUID) -> None:
    for kind in ("jobs", "models", "bundles"):
        one, two = ({item["id"] for item in who.http.get(f"/v1/{kind}").json()["items"]} for who in (service, other))
        assert len(one) == len(two) == 1
        assert one.isdisjoint(two)


def test_another_tenants_model_cannot_be_named(service: Service, other: Service, mine: UUID) -> None:
    model = service.http.get(f"/v1/jobs/{mine}").json()["model"]
    answer = other.http.post("/v1/jobs", json={"model": model, "clean": other.bundle()})
    assert (answer.status_code, answer.json()["code"]) == (422, "unknown_reference")


def test_two_tenants_may_use_one_idempotency_key(service: Service, other: Service) -> None:
    body, headers = {"kind": "model", "filename": "file"}, {"Idempotency-Key": "the same"}
    made = [who.http.post("/v1/uploads", json=body, headers=headers).json()["id"] for who in (service, other, service)]
    assert made[0] == made[2] != made[1]
