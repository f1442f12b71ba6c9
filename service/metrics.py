"""What Prometheus reads at /metrics. What the database knows is read from it at each scrape, and is the same whichever
process of the API is asked: take one, or the maximum. What only this process knows is counted here: add them up.

Labels have few values: states, stages, routes as they are written, methods that exist. Nothing tells tenants apart.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from sqlalchemy import ColumnElement, Label, SQLColumnExpression, func, select
from sqlalchemy.orm import Session
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from redeem.contract import JobState, Stage, UploadState
from redeem.webhooks import DeliveryState
from service.clock import from_now
from service.database import Sessions
from service.tables import DeliveryRow, JobRow, UploadRow, now

SECONDS = (1, 5, 15, 60, 180, 600, 1800, 3600, 4 * 3600, 12 * 3600, 24 * 3600)
GPU_BYTES = tuple(2**power for power in range(27, 38))
SETTLED = timedelta(seconds=5)
"""An end that is written as of now may be committed a moment later; older ones are there."""
METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}


@dataclass
class Metrics:
    """What this process counted since it started."""

    registry: CollectorRegistry = field(default_factory=CollectorRegistry)
    reading: threading.Lock = field(default_factory=threading.Lock)
    observed_until: datetime = field(default_factory=now)

    def __post_init__(self) -> None:
        self.requests = Histogram(
            "redeem_http_request_seconds",
            "Answers to requests, to their last byte.",
            ["method", "route", "status"],
            registry=self.registry,
        )
        self.uploaded = Counter("redeem_upload_bytes", "Bytes of uploads that came in.", registry=self.registry)
        self.webhooks = Counter(
            "redeem_webhook_attempts",
            "Posts to webhooks' endpoints by what came of them.",
            ["outcome"],
            registry=self.registry,
        )
        for outcome in ("good", "failed"):
            self.webhooks.labels(outcome)  # there from the start, so that the first failure is a rise
        self.jobs = Histogram(
            "redeem_job_seconds",
            "Jobs that ended since this process started, from their first claim to their end.",
            ["state"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self.stages = Histogram(
            "redeem_stage_seconds", "Their stages.", ["stage"], buckets=SECONDS, registry=self.registry
        )
        self.gpu = Histogram(
            "redeem_job_gpu_bytes",
            "The most that each had allocated on its GPU at a time.",
            buckets=GPU_BYTES,
            registry=self.registry,
        )


class MeasureRequests:
    """ASGI middleware: how long answers take, by route."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, status = time.monotonic(), 500

        async def noting_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, noting_status)
        finally:
            method = scope["method"] if scope["method"] in METHODS else "other"
            measured = scope["app"].state.context.metrics.requests.labels(method, _route(scope), status)
            measured.observe(time.monotonic() - began)


def exposition(metrics: Metrics, readers: Sessions) -> bytes:
    """All of it, as Prometheus reads it."""
    with metrics.reading, readers() as session:
        _observe_ends(metrics, session)
        now_there = CollectorRegistry()
        now_there.register(_Fixed(list(_standing(session))))
    return generate_latest(now_there) + generate_latest(metrics.registry)


class _Fixed(Collector):
    def __init__(self, families: list[Metric]) -> None:
        self.families = families

    def collect(self) -> list[Metric]:
        return self.families


def _standing(session: Session) -> Iterator[Metric]:
    """How things are in the database."""
    jobs = GaugeMetricFamily("redeem_jobs", "Jobs by state.", labels=["state"])
    counts = _counts(session, JobRow.state)
    for state in JobState:
        jobs.add_metric([state], counts.get(state, 0))
    yield jobs
    queued = GaugeMetricFamily(
        "redeem_queued_jobs", "Queued jobs by the class of workers that they ask for.", labels=["device_class"]
    )
    by_class = _counts(session, func.coalesce(JobRow.device_class, ""), JobRow.state == JobState.queued)
    for device_class, count in ({"": 0} | by_class).items():
        queued.add_metric([device_class], count)
    yield queued
    oldest = session.scalar(select(func.min(JobRow.created_at)).where(JobRow.state == JobState.queued))
    age = 0.0 if oldest is None else max(0.0, (now() - oldest).total_seconds())
    yield GaugeMetricFamily("redeem_oldest_queued_seconds", "Age of the job that waits longest.", age)
    uploads = GaugeMetricFamily("redeem_uploads", "Uploads by state.", labels=["state"])
    counts = _counts(session, UploadRow.state)
    for upload_state in UploadState:
        uploads.add_metric([upload_state], counts.get(upload_state, 0))
    yield uploads
    deliveries = GaugeMetricFamily("redeem_webhook_deliveries", "What webhooks are told, by state.", labels=["state"])
    counts = _counts(session, DeliveryRow.state)
    for delivery_state in DeliveryState:
        deliveries.add_metric([delivery_state], counts.get(delivery_state, 0))
    yield deliveries


def _counts(session: Session, value: SQLColumnExpression[str], *conditions: ColumnElement[bool]) -> dict[str, int]:
    """How many rows have each value."""
    told: Label[str] = value.label("value")  # by its name: PostgreSQL takes two parameters of one value for two values
    rows = session.execute(select(told, func.count()).where(*conditions).group_by(told))
    return {state: count for state, count in rows}  # noqa: C416  a row is more than a pair to mypy


def _observe_ends(metrics: Metrics, session: Session) -> None:
    """Every job that ended since the last look, once."""
    ended = select(JobRow.state, JobRow.started_at, JobRow.finished_at, JobRow.timings, JobRow.gpu_bytes).where(
        JobRow.finished_at > metrics.observed_until, JobRow.finished_at <= from_now(-SETTLED)
    )
    for state, started_at, finished_at, timings, gpu_bytes in session.execute(ended.order_by(JobRow.finished_at)):
        metrics.observed_until = finished_at or metrics.observed_until
        if started_at is not None and finished_at is not None:
            metrics.jobs.labels(state).observe((finished_at - started_at).total_seconds())
        if gpu_bytes is not None:
            metrics.gpu.observe(gpu_bytes)
        for stage in Stage:
            if stage in timings:
                metrics.stages.labels(stage).observe(timings[stage])


def _route(scope: Scope) -> str:
    """As it is written, with `{id}` for every id; `none` where no route matched."""
    path = getattr(scope.get("route"), "path", None)
    if path is None:
        return "none"
    return f"/v1{path}" if scope["path"].startswith("/v1/") else str(path)  # a route does not know its router's prefix
