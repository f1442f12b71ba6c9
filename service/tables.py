"""The record of truth: what the database holds. Alembic's migrations make these tables; a test keeps both equal."""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

import uuid_utils.compat
from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    DateTime,
    Dialect,
    ForeignKey,
    Index,
    MetaData,
    PrimaryKeyConstraint,
    SmallInteger,
    String,
    TypeDecorator,
    UniqueConstraint,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from redeem.contract import BundleRole, JobState, UploadKind, UploadState
from redeem.webhooks import DeliveryState


class UtcDateTime(TypeDecorator[datetime]):
    """An aware UTC time on every database. Refuses naive times instead of guessing."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"a time without a zone: {value}")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


Json = JSON().with_variant(JSONB(), "postgresql")


def now() -> datetime:
    return datetime.now(UTC)


def new_id() -> UUID:
    """UUIDv7: unguessable enough to name, ordered enough to index and to page by."""
    return uuid_utils.compat.uuid7()


def one_of(column: str, values: type[StrEnum]) -> CheckConstraint:
    allowed = ", ".join(f"'{value}'" for value in values)
    return CheckConstraint(f"{column} IN ({allowed})", name=column)


class Base(DeclarativeBase):
    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "pk": "pk_%(table_name)s",
        }
    )


class TenantRow(Base):
    """Who owns what is here. The migration that made this table made `default`, which owns what there was before."""

    __tablename__ = "tenants"
    id: Mapped[UUID] = mapped_column(primary_key=True, default=new_id)
    name: Mapped[str] = mapped_column(String(64), unique=True)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=now)


DEFAULT_TENANT = UUID("00000000-0000-7000-8000-000000000000")
"""Of the first key, and the only tenant of a server that has no others."""


class Owned:
    """Mixin: rows of one tenant. `service.tenancy` sees to it that a request reaches no other tenant's."""

    tenant_id: Mapped[UUID] = mapped_column(ForeignKey("tenants.id"))


class OfJob:
    """Mixin: rows that hang on a job, and belong to its tenant."""

    job_id: Mapped[UUID] = mapped_column(ForeignKey("jobs.id"))


class ApiKey(Owned, Base):
    """Who may. `prefix` is the key's public part; of the whole only the SHA-256 is kept. Keys are 32 random bytes, so
    no slow hash is needed."""

    __tablename__ = "api_keys"
    id: Mapped[UUID] = mapped_column(primary_key=True, default=new_id)
    name: Mapped[str] = mapped_column(String(100))
    prefix: Mapped[str] = mapped_column(String(16), unique=True)
    hash: Mapped[str] = mapped_column(String(64), unique=True)
    scopes: Mapped[list[str]] = mapped_column(Json)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=now)
    expires_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    revoked_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    last_used_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    """To the minute."""


class SigningKeyRow(Base):
    """A public key that a host of this server signed with. The private half is in a file of that host, never here."""

    __tablename__ = "signing_keys"
    kid: Mapped[str] = mapped_column(String(43), primary_key=True)
    x: Mapped[str] = mapped_column(String(43))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=now)
    retired_at: Mapped[datetime | None] = mapped_column(UtcDateTime)


class AuditRow(Base):
    """A line of the audit log. Only `service.audit` adds them, and the database refuses to change or remove any."""

    __tablename__ = "audit_log"
    seq: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    at: Mapped[datetime] = mapped_column(UtcDateTime)
    tenant: Mapped[UUID | None]
    actor: Mapped[str] = mapped_column(String(255))
    action: Mapped[str] = mapped_column(String(64))
    object: Mapped[str] = mapped_column(String(255))
    outcome: Mapped[str] = mapped_column(String(64))
    address: Mapped[str] = mapped_column(String(64))
    request: Mapped[str] = mapped_column(String(128))
    previous: Mapped[str] = mapped_column(String(64))
    """The hash of the row before; `hash` covers it and everything else in this one."""
    hash: Mapped[str] = mapped_column(String(64))


class IdempotencyRow(Owned, Base):
    """Which resource a client's `Idempotency-Key` made, and from what request: both kept as hashes."""

    __tablename__ = "idempotency_keys"
    __table_args__ = (PrimaryKeyConstraint("tenant_id", "key_hash"),)
    key_hash: Mapped[str] = mapped_column(String(64))
    fingerprint: Mapped[str] = mapped_column(String(64))
    made: Mapped[UUID]
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=now)


class UploadRow(Owned, Base):
    __tablename__ = "uploads"
    __table_args__ = (
        one_of("kind", UploadKind),
        one_of("state", UploadState),
        Index(None, "tenant_id", "id"),
        Index(None, "sha256"),
        Index(None, "tenant_id", "sha256"),
    )
    id: Mapped[UUID] = mapped_column(primary_key=True, default=new_id)
    kind: Mapped[str] = mapped_column(String(16))
    filename: Mapped[str] = mapped_column(String(255))
    state: Mapped[str] = mapped_column(String(16), default=UploadState.open)
    size: Mapped[int | None] = mapped_column(BigInteger)
    """Announced at first, measured once complete; likewise `sha256`."""
    sha256: Mapped[str | None] = mapped_column(String(64))
    received: Mapped[int] = mapped_column(BigInteger, default=0)
    """Bytes that are in the store, from the first one on and without gaps: never more than are durable there."""
    received_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    """When bytes last came to stay."""
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=now)


class UploadPartRow(Owned, Base):
    """A piece of an unfinished upload, in the store under its id. The parts of an upload follow each other from byte 0
    to `received`."""

    __tablename__ = "upload_parts"
    upload_id: Mapped[UUID] = mapped_column(ForeignKey("uploads.id"), primary_key=True)
    start: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    size: Mapped[int] = mapped_column(BigInteger)
    id: Mapped[UUID]


class ModelRow(Owned, Base):
    __tablename__ = "models"
    __table_args__ = (Index(None, "tenant_id", "id"), Index(None, "upload_id"))
    id: Mapped[UUID] = mapped_column(primary_key=True, default=new_id)
    upload_id: Mapped[UUID] = mapped_column(ForeignKey("uploads.id"))
    architecture: Mapped[dict[str, Any]] = mapped_column(Json)
    preprocessing: Mapped[dict[str, Any]] = mapped_column(Json)
    labels: Mapped[dict[str, str]] = mapped_column(Json)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=now)
    upload: Mapped[UploadRow] = relationship(lazy="joined", innerjoin=True)


class BundleRow(Owned, Base):
    __tablename__ = "bundles"
    __table_args__ = (one_of("role", BundleRole), Index(None, "tenant_id", "id"), Index(None, "upload_id"))
    id: Mapped[UUID] = mapped_column(primary_key=True, default=new_id)
    upload_id: Mapped[UUID] = mapped_column(ForeignKey("uploads.id"))
    role: Mapped[str] = mapped_column(String(16))
    target: Mapped[int | list[int] | None] = mapped_column(Json)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=now)
    upload: Mapped[UploadRow] = relationship(lazy="joined", innerjoin=True)


class JobRow(Owned, Base):
    """A job, its outbox and its lease in one row. Only `service.records`, `service.dispatcher` and `worker.lease`
    change it, each by compare-and-set."""

    __tablename__ = "jobs"
    __table_args__ = (
        one_of("state", JobState),
        Index(None, "state", "lease_expires_at"),
        Index(None, "tenant_id", "id"),  # a tenant's page of jobs, and of jobs in one state
        Index(None, "tenant_id", "state", "id"),
        Index(None, "tenant_id", "verdict", "id"),
        Index(None, "model_id"),  # the inputs that no job names, and who deletes one
        Index(None, "clean_id"),
        Index(None, "triggered_id"),
        Index(None, "webhook_id"),
    )
    id: Mapped[UUID] = mapped_column(primary_key=True, default=new_id)
    state: Mapped[str] = mapped_column(String(16), default=JobState.queued)
    stage: Mapped[str | None] = mapped_column(String(32))
    progress: Mapped[float] = mapped_column(default=0.0)
    verdict: Mapped[str | None] = mapped_column(String(16))
    cancel_requested: Mapped[bool] = mapped_column(default=False)
    error_code: Mapped[str | None] = mapped_column(String(64))
    error_detail: Mapped[str | None]
    error_hint: Mapped[str | None]

    model_id: Mapped[UUID] = mapped_column(ForeignKey("models.id"))
    clean_id: Mapped[UUID] = mapped_column(ForeignKey("bundles.id"))
    triggered_id: Mapped[UUID | None] = mapped_column(ForeignKey("bundles.id"))
    purifier: Mapped[dict[str, Any]] = mapped_column(Json)
    detectors: Mapped[list[dict[str, Any]]] = mapped_column(Json)
    policy: Mapped[dict[str, Any]] = mapped_column(Json)
    seed: Mapped[int] = mapped_column(BigInteger)
    priority: Mapped[int] = mapped_column(SmallInteger, default=5)
    device_class: Mapped[str | None] = mapped_column(String(32))
    """Whose queue its id goes to; None is that of all workers that serve any job."""
    labels: Mapped[dict[str, str]] = mapped_column(Json)
    timings: Mapped[dict[str, float]] = mapped_column(Json, default=dict)
    gpu_bytes: Mapped[int | None] = mapped_column(BigInteger)
    """The most that its last attempt had allocated on its GPU at a time; None of a job that had none, or failed."""
    webhook_id: Mapped[UUID | None] = mapped_column(ForeignKey("webhooks.id", ondelete="SET NULL"))

    traceparent: Mapped[str | None] = mapped_column(String(55))
    """W3C's, of the request that submitted it: its worker goes on with that trace."""

    attempts: Mapped[int] = mapped_column(default=0)
    """How often it was claimed."""
    dispatched_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    """When its id last went on the queue; None means it still has to."""
    lease_token: Mapped[UUID | None]
    """Made anew by each claim; whoever does not hold it writes nothing."""
    lease_expires_at: Mapped[datetime | None] = mapped_column(UtcDateTime)

    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=now)
    started_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    finished_at: Mapped[datetime | None] = mapped_column(UtcDateTime)


class JobEventRow(OfJob, Base):
    """The history of a job: what GET /v1/jobs/{id}/events replays."""

    __tablename__ = "job_events"
    __table_args__ = (PrimaryKeyConstraint("job_id", "seq"),)
    seq: Mapped[int] = mapped_column(autoincrement=False)
    at: Mapped[datetime] = mapped_column(UtcDateTime, default=now)
    type: Mapped[str] = mapped_column(String(16))
    state: Mapped[str] = mapped_column(String(16))
    stage: Mapped[str | None] = mapped_column(String(32))
    progress: Mapped[float]


class ArtifactRow(OfJob, Base):
    """A file that a job made. The bytes are in the store under their hash. Stage artifacts (`internal`) let a repeated
    job skip what is done; the others are for the client."""

    __tablename__ = "artifacts"
    __table_args__ = (UniqueConstraint("job_id", "name"), Index(None, "sha256"))
    id: Mapped[UUID] = mapped_column(primary_key=True, default=new_id)
    name: Mapped[str] = mapped_column(String(100))
    media_type: Mapped[str] = mapped_column(String(100))
    size: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str] = mapped_column(String(64))
    internal: Mapped[bool] = mapped_column(default=False)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=now)


class WebhookRow(Owned, Base):
    """An endpoint that is told of the ends of jobs. Signing needs the secret itself, so it is kept as it is."""

    __tablename__ = "webhooks"
    __table_args__ = (Index(None, "tenant_id", "id"),)
    id: Mapped[UUID] = mapped_column(primary_key=True, default=new_id)
    url: Mapped[str] = mapped_column(String(2048))
    events: Mapped[list[str]] = mapped_column(Json)
    secret: Mapped[str] = mapped_column(String(100))
    former_secret: Mapped[str | None] = mapped_column(String(100))
    """Signs as well until `former_until`."""
    former_until: Mapped[datetime | None] = mapped_column(UtcDateTime)
    disabled_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=now)


class DeliveryRow(Owned, Base):
    """The outbox: written in the transaction of what it tells. `next_attempt_at` is its lease as well: whoever takes it
    moves that on before trying."""

    __tablename__ = "deliveries"
    __table_args__ = (
        one_of("state", DeliveryState),
        Index(None, "webhook_id", "id"),
        Index(None, "state", "next_attempt_at"),
    )
    id: Mapped[UUID] = mapped_column(primary_key=True, default=new_id)
    webhook_id: Mapped[UUID] = mapped_column(ForeignKey("webhooks.id", ondelete="CASCADE"))
    job_id: Mapped[UUID | None]
    """No foreign key: what was told of a job may outlive it."""
    type: Mapped[str] = mapped_column(String(32))
    body: Mapped[str]
    """The very bytes of every attempt."""
    state: Mapped[str] = mapped_column(String(16), default=DeliveryState.pending)
    tries: Mapped[int] = mapped_column(default=0)
    """How often it was tried since it was last asked for."""
    log: Mapped[list[dict[str, Any]]] = mapped_column(Json, default=list)
    next_attempt_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=now)
