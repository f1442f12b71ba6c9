"""One trace follows a job from the request that submits it into the worker; so do the ids of the log."""

from __future__ import annotations

import json
from collections.abc import Iterator
from uuid import UUID

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from service import tracing
from service.settings import Settings
from tests.service.running import Service, serving
from worker.pipeline import run

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.fixture
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return Settings(data=tmp_path_factory.mktemp("data"))


@pytest.fixture
def exported(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
    yield exporter
    provider.shutdown()


def submitted(service: Service) -> str:
    """A job whose weights are no weights: it ends in the second stage."""
    body = {"model": service.model(), "clean": service.bundle()}
    answer = service.http.post("/v1/jobs", json=body, headers={"traceparent": f"00-{TRACE}-{PARENT}-01"})
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def test_a_trace_goes_from_the_request_into_the_workers_stages(
    settings: Settings, exported: InMemorySpanExporter, capfd: pytest.CaptureFixture[str]
) -> None:
    with serving(settings) as service:
        job = submitted(service)
        run(UUID(job), settings)
        assert service.row(UUID(job)).state == "failed"
    spans = {span.name: span for span in exported.get_finished_spans() if f"{_context(span).trace_id:032x}" == TRACE}
    assert {"POST /v1/jobs", "job", "fetch", "load"} <= spans.keys()
    assert _parent(spans["POST /v1/jobs"]) == int(PARENT, 16)
    assert _parent(spans["fetch"]) == _parent(spans["load"]) == _context(spans["job"]).span_id
    assert (spans["job"].attributes or {})["redeem.job"] == job
    lines = [json.loads(line) for line in capfd.readouterr().err.splitlines() if line.startswith("{")]
    (failed,) = [line for line in lines if line["event"] == "failed"]
    assert (failed["job"], failed["trace"]) == (job, TRACE)
    request = next(line for line in lines if line["event"] == "request" and line.get("trace") == TRACE)
    assert failed["tenant"] == request["tenant"]


def test_nothing_is_recorded_unless_it_is_configured(settings: Settings) -> None:
    tracing.configure(settings, "test")
    with serving(settings) as service:
        assert service.row(service.job()).traceparent is None
    assert not isinstance(trace.get_tracer_provider(), TracerProvider)


def _context(span: ReadableSpan) -> trace.SpanContext:
    assert span.context is not None
    return span.context


def _parent(span: ReadableSpan) -> int:
    assert span.parent is not None
    return span.parent.span_id
