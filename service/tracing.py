"""Traces: one of a job, from the request that submitted it to the end of its last stage. W3C's traceparent carries it
on the job's row, since only an id crosses the queue.

Without `REDEEM_TRACES_URL` nothing is recorded and nothing is sent.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from opentelemetry import trace
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from service.settings import Settings

W3C = TraceContextTextMapPropagator()


def configure(settings: Settings, name: str) -> None:
    """Send this process's spans to a collector, where one is set; the extra `otel` brings what it takes."""
    if not settings.traces_url:
        return
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider(resource=Resource.create({"service.name": name}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=settings.traces_url)))
    trace.set_tracer_provider(provider)


def traceparent() -> str | None:
    """Of the present span; None where nothing is recorded."""
    carrier: dict[str, str] = {}
    W3C.inject(carrier)
    return carrier.get("traceparent")


def span(name: str) -> AbstractContextManager[trace.Span]:
    return trace.get_tracer("redeem").start_as_current_span(name)


@contextmanager
def continued(parent: str | None, name: str, attributes: dict[str, str]) -> Iterator[None]:
    """A span in the trace of `parent`, or in a new one. What it recorded is on its way when the context ends: the
    process may end without a word after it."""
    context = W3C.extract({} if parent is None else {"traceparent": parent})
    tracer = trace.get_tracer("redeem")
    try:
        with tracer.start_as_current_span(name, context=context, attributes=attributes):
            yield
    finally:
        flush = getattr(trace.get_tracer_provider(), "force_flush", None)
        if flush is not None:
            flush()
