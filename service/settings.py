"""Every setting of the service and the worker, from `REDEEM_…` in the environment: the only reader of it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr, TypeAdapter, ValidationInfo
from pydantic_settings import BaseSettings, SettingsConfigDict

from redeem.contract import DeviceClass


def _networks(text: str) -> str:
    """Networks separated by spaces, commas or both. Raises ValueError."""
    networks = text.replace(",", " ").split()
    return " ".join(str(ip_network(network)) for network in networks)


def _names(text: str) -> str:
    """Names of device classes separated by spaces, commas or both. Raises ValueError."""
    names = text.replace(",", " ").split()
    TypeAdapter(list[DeviceClass]).validate_python(names)
    return " ".join(dict.fromkeys(names))


def _issuer(url: str) -> str:
    """An https address, or one of this machine. Raises ValueError."""
    parts = urlsplit(url)
    here = parts.scheme == "http" and parts.hostname in ("localhost", "127.0.0.1", "::1")
    if url and not (parts.hostname and (parts.scheme == "https" or here)):
        raise ValueError("an issuer is an https:// address, unless it is on this machine")
    return url


def _counted_in(place: str, info: ValidationInfo) -> str:
    broker = urlsplit(info.data.get("broker_url", ""))
    if place == "broker" and broker.scheme not in ("redis", "rediss"):
        raise ValueError(
            "only a Redis or Valkey counts requests for all processes, and REDEEM_BROKER_URL names none (redis:// or "
            "rediss://): name one, or leave REDEEM_COUNT_REQUESTS_IN at memory, and each process counts for itself"
        )
    return place


def _audience(audience: str, info: ValidationInfo) -> str:
    if info.data.get("oidc_issuer") and not audience:
        raise ValueError("an issuer gives tokens for other servers too: set REDEEM_OIDC_AUDIENCE beside it")
    return audience


class Settings(BaseSettings):
    """`Settings()` reads the environment; tests pass what they want as keyword arguments."""

    model_config = SettingsConfigDict(env_prefix="REDEEM_")

    data: Path = Path("redeem-data")
    """The folder of everything on one machine: database, store, key, Valkey's files, scratch."""
    database_url: str = ""
    """SQLAlchemy's. Empty: SQLite in the data folder."""
    broker_url: str = ""
    """Celery's: redis:// or rediss:// is a Redis or Valkey, amqp:// or amqps:// a RabbitMQ. `redeem serve` sets it
    to the Valkey that it starts."""
    store_url: str = ""
    """Where bytes live: `s3://bucket/prefix`, or what else obstore opens by an address. Empty: the data folder."""
    store_options: dict[str, str] = {}
    """obstore's options of that store, as JSON: endpoint, region and the like. Credentials may stand here; better are
    the store's own variables (AWS_…), or the machine's role."""
    max_upload_bytes: int = Field(4 * 2**30, gt=0)
    upload_part_bytes: int = Field(64 * 2**20, gt=0)
    """What a server that dies loses at most of an upload that is sent in parts."""
    upload_expiry: timedelta = timedelta(hours=24)
    """After how long without new bytes an unfinished upload is removed."""
    uploads_per_key: int = Field(8, ge=1)
    """How many uploads each key may send at once, to one process of the API."""
    min_upload_rate: int = Field(64 * 2**10, ge=0)
    """Bytes a second that a sender has to bring about, over `upload_patience`."""
    upload_patience: timedelta = timedelta(seconds=30)
    min_free_bytes: int = Field(2**30, ge=0)
    """Uploads are refused rather than that the disk of the store has less left."""
    requests_per_minute: int = Field(60_000, ge=1)
    """Of each key."""
    failures_per_minute: int = Field(1_000, ge=1)
    """Requests without a good key, of each address; beyond them it is told to wait."""
    count_requests_in: Annotated[Literal["memory", "broker"], AfterValidator(_counted_in)] = "memory"
    """Whether each process of the API counts requests for itself, or all together in the broker, a Redis or Valkey."""
    max_queued_jobs: int = Field(10_000, ge=1)
    """Of each tenant."""
    max_stored_bytes: int = Field(0, ge=0)
    """Of each tenant, uploads and the files of its jobs together. 0: as many as there is room for."""
    max_webhooks: int = Field(20, ge=0)
    """Of each tenant: every end of a job is told to all that want it."""
    lease: timedelta = timedelta(seconds=30)
    """A worker that gave no heartbeat for this long is taken for dead, and its job is queued again."""
    heartbeat: timedelta = timedelta(seconds=5)
    job_deadline: timedelta = timedelta(hours=24)
    """An attempt that takes longer ends its job as failed, whatever it is doing."""
    cancel_grace: timedelta = timedelta(seconds=30)
    """A job that has not ended so long after it was cancelled hangs, and its process is ended."""
    queue_ahead: int = Field(32, ge=1)
    """So many jobs wait on the queue at most, first come, first served; the others wait in the database, where it is
    decided fairly whose turn is next. Have it no smaller than the number of workers."""
    device_classes: Annotated[str, AfterValidator(_names)] = ""
    """The classes (`small, h100`) that jobs may ask for, each with a queue of its own: for the API those that it
    accepts, for a worker those that it serves, beside the jobs that ask for none."""
    max_attempts: int = Field(3, ge=1)
    checkpoint: timedelta = timedelta(seconds=20)
    """At least so long between two checkpoints of a purification: each copies the weights three times and more."""

    retention_days: float | None = Field(None, gt=0)
    """After how many days jobs that ended are deleted, inputs that no job needs, and what webhooks were told. None:
    never."""
    blob_grace: timedelta = timedelta(hours=1)
    """How old bytes that nothing names have to be before they are removed: longer than a job takes to publish."""

    oidc_issuer: Annotated[str, AfterValidator(_issuer)] = ""
    """The OpenID Connect issuer whose tokens are taken beside API keys, written as in their `iss`. Empty: no tokens."""
    oidc_audience: Annotated[str, AfterValidator(_audience)] = ""
    """What `aud` of a token has to hold; needed with an issuer."""
    oidc_tenant_claim: str = "redeem_tenant"
    """The claim that names the tenant whose token it is."""
    oidc_scope_claim: str = "scope"
    """The claim with the scopes, as text with spaces or a list."""

    metrics_token: SecretStr | None = None
    """The bearer token that Prometheus shows at /metrics, which tells of all tenants. None: there is no /metrics."""
    traces_url: str = ""
    """Where spans go, by OTLP over HTTP, like http://collector:4318/v1/traces. Empty: nowhere."""

    signing_key: Path | None = None
    """The Ed25519 key that signs provenance, as PEM; hosts of one server may share one, or have one each. By default a
    file in the data folder, made at first start."""
    builder: str = "urn:redeem:server"
    """How provenance names this server: a URI that its readers know it by."""

    webhook_allow: Annotated[str, AfterValidator(_networks)] = ""
    """Networks (`10.0.0.0/8, fd00::/8`) that webhooks may reach though they are not public, and without TLS."""

    @property
    def signing_key_file(self) -> Path:
        return self.signing_key or self.data / "signing-key.pem"

    @property
    def database(self) -> str:
        return self.database_url or f"sqlite:///{self.data / 'redeem.db'}"

    @property
    def store(self) -> Path:
        return self.data / "store"

    @property
    def key_file(self) -> Path:
        """The key made at first start: readable by the owner alone, and what the CLI on this machine uses."""
        return self.data / "key"

    @property
    def device_class_names(self) -> list[str]:
        return self.device_classes.split()

    @property
    def webhook_networks(self) -> Sequence[IPv4Network | IPv6Network]:
        return [ip_network(network) for network in self.webhook_allow.split()]
