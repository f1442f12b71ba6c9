"""Isolation, all of it: a request's session is bound to its caller's tenant, and others' rows do not exist there.

What binds is the session and not the query, so no query can forget it: every SELECT, UPDATE and DELETE gets the
criterion, in subqueries and joins too, and every new row the tenant. What could go past that is refused. The worker,
the dispatcher and the operator's commands use sessions that are not bound.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, cast
from uuid import UUID

from sqlalchemy import ColumnElement, Engine, Row, Table, bindparam, event, exists, select
from sqlalchemy.orm import ORMExecuteState, Session, UOWTransaction, with_loader_criteria

from redeem.access import Scope
from service.database import Sessions
from service.tables import JobRow, OfJob, Owned


@dataclass(frozen=True)
class Caller:
    """Who makes a request: whose objects it reaches, what it may, and what the logs call it."""

    tenant: UUID
    name: str
    scopes: frozenset[Scope] = frozenset()
    address: str = ""
    request: str = ""
    """The id of the request."""


class TenantSession(Session):
    """Holds a Caller in `info["caller"]`."""


def bound(sessions: Sessions, caller: Caller) -> Sessions:
    """Sessions that reach what is the caller's tenant's, and nothing else."""
    return dataclasses.replace(sessions, kind=TenantSession, info={"caller": caller})


def caller_of(session: Session) -> Caller | None:
    """Whose session it is; None of one that reaches everything."""
    caller = session.info.get("caller")
    return caller if isinstance(caller, Caller) else None


_JOBS = cast(Table, JobRow.__table__)
_WITH_IDS = select(_JOBS).where(_JOBS.c.id.in_(bindparam("ids", expanding=True)))


def read_jobs(engine: Engine, ids: Iterable[UUID]) -> dict[tuple[UUID, UUID], Row[Any]]:
    """Jobs by the tenant that owns them and their id: who looks one up says for which tenant. The short way, without a
    session, for what is asked for many times a second."""
    with engine.connect().execution_options(postgresql_readonly=True) as connection:
        return {(row.tenant_id, row.id): row for row in connection.execute(_WITH_IDS, {"ids": list(ids)})}


@event.listens_for(TenantSession, "do_orm_execute")
def _narrow(state: ORMExecuteState) -> None:
    if not state.is_orm_statement or state.is_insert:
        raise RuntimeError("a tenant's session runs SELECT, UPDATE and DELETE of mapped classes, and adds objects")
    tenant = state.session.info["caller"].tenant
    state.statement = state.statement.options(
        with_loader_criteria(Owned, lambda cls: cls.tenant_id == tenant, include_aliases=True),
        with_loader_criteria(OfJob, lambda cls: _job_is_of(cls, tenant), include_aliases=True),
    )


def _job_is_of(cls: type[OfJob], tenant: UUID) -> ColumnElement[bool]:
    jobs = JobRow.__table__.c  # the table, not the class: this is the criterion, and shall not get another one
    return exists().where(jobs.id == cls.job_id, jobs.tenant_id == tenant)


@event.listens_for(TenantSession, "before_flush")
def _give(session: Session, context: UOWTransaction, instances: object) -> None:
    tenant = session.info["caller"].tenant
    for row in session.new | session.dirty:
        if not isinstance(row, Owned):
            continue
        if row.tenant_id is None:
            row.tenant_id = tenant
        elif row.tenant_id != tenant:
            raise RuntimeError(f"a row of tenant {row.tenant_id} in a session of tenant {tenant}")
