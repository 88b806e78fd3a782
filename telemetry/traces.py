"""Traces of OpenTelemetry: off unless OTEL_EXPORTER_OTLP_ENDPOINT or OTEL_EXPORTER_OTLP_TRACES_ENDPOINT is set.

The SDK reads all other settings from its own environment variables, too; docs/traces.md names the useful ones. Without
tracing, no function here starts a span, and the SDK is not imported.

Spans have no personal data: neither keys nor values of messages, and no texts of exceptions.
"""

import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, Span, SpanKind, StatusCode, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
STOP_SECONDS = 2.0
"""Time for the last export when a process stops."""
MOST_LINKS = 500
"""Links of a span: as many as a batch has requests."""

Attributes = Mapping[str, str | int]

_PROPAGATOR = TraceContextTextMapPropagator()
_TRACEPARENT = "traceparent"
ERROR_TYPE = "error.type"
"""The attribute of OpenTelemetry's semantic conventions for the kind of an error."""


class _Tracers:
    """`sampled` follows the sampler of the settings. `always` starts spans whose parts are sampled already."""

    sampled: Tracer | None = None
    always: Tracer | None = None


@contextmanager
def exported(service: str) -> Iterator[None]:
    """Export spans until the end of the block, if an endpoint is set. `service` is the default of OTEL_SERVICE_NAME."""
    if not _is_configured():
        yield
        return
    shutdown = _start(service)
    try:
        yield
    finally:
        _Tracers.sampled = _Tracers.always = None
        # In a thread, because a collector that does not answer would delay the end of the process.
        last_export = threading.Thread(target=shutdown, daemon=True)
        last_export.start()
        last_export.join(STOP_SECONDS)


def _is_configured() -> bool:
    is_disabled = os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true"
    return not is_disabled and any(os.environ.get(name) for name in ENDPOINTS)


def wrong_setting() -> str | None:
    """What is wrong with the settings of OpenTelemetry."""
    name = next((name for name in PROTOCOLS if os.environ.get(name)), None)
    if not _is_configured() or name is None or os.environ[name] == "http/protobuf":
        return None
    return f"{name} is {os.environ[name]}, but traces are exported with http/protobuf only."


def _start(service: str) -> Callable[[], None]:
    """Returns what ends the export."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource
    from opentelemetry.sdk.trace import SpanLimits, TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.sdk.trace.sampling import ALWAYS_ON

    defaults = {"service.name": service, "service.version": version("visitor-service")}
    resource = Resource.create({**defaults, **OTELResourceDetector().detect().attributes})
    limits = SpanLimits(max_links=MOST_LINKS)
    processor = BatchSpanProcessor(OTLPSpanExporter())
    by_settings = TracerProvider(resource=resource, span_limits=limits, shutdown_on_exit=False)
    always = TracerProvider(sampler=ALWAYS_ON, resource=resource, span_limits=limits, shutdown_on_exit=False)
    for provider in (by_settings, always):
        provider.add_span_processor(processor)
    _Tracers.sampled, _Tracers.always = by_settings.get_tracer(service), always.get_tracer(service)
    return processor.shutdown


def is_enabled() -> bool:
    return _Tracers.sampled is not None


def start(name: str, kind: SpanKind, attributes: Attributes, parent: str | None) -> Span:
    """Start a span that the caller ends. `parent` is a traceparent; without one, a new trace begins. Only if
    `is_enabled`."""
    assert _Tracers.sampled is not None
    return _Tracers.sampled.start_span(name, _context(parent), kind, attributes)


@contextmanager
def server(name: str, attributes: Attributes, parent: str | None) -> Iterator[Span | None]:
    """The span of a call, which is the current one in the block. None without tracing."""
    if _Tracers.sampled is None:
        yield None
        return
    span = start(name, SpanKind.SERVER, attributes, parent)
    with _current(span):
        yield span


@contextmanager
def batch(name: str, spans: Sequence[Span], attributes: Attributes) -> Iterator[None]:
    """A span with a link to each of `spans`, which is the current one in the block, and a link back from each of them.
    Without a sampled one among them, there is none."""
    sampled = [span for span in spans if span.is_recording()]
    if _Tracers.always is None or not sampled:
        yield
        return
    links = [Link(span.get_span_context()) for span in sampled]
    batch_span = _Tracers.always.start_span(name, Context(), attributes=attributes, links=links)
    for span in sampled:
        span.add_link(batch_span.get_span_context())
    with _current(batch_span):
        yield


@contextmanager
def part(name: str, whole: Span | None = None) -> Iterator[None]:
    """A part of a span, by default of the current one; nothing if that is not recorded."""
    if _Tracers.always is None:
        yield
        return
    whole = whole or trace.get_current_span()
    if not whole.is_recording():
        yield
        return
    with _current(_Tracers.always.start_span(name, trace.set_span_in_context(whole))):
        yield


@contextmanager
def _current(span: Span) -> Iterator[None]:
    """End the span after the block. Of an exception it has the type only, since the text may have values."""
    with trace.use_span(span, end_on_exit=True, record_exception=False, set_status_on_exception=False):
        try:
            yield
        except Exception as error:
            span.set_attribute(ERROR_TYPE, type(error).__name__)
            raise


def fail(span: Span, error: str) -> None:
    """Mark a span as failed. `error` is a type of exception or a status."""
    span.set_attribute(ERROR_TYPE, error)
    span.set_status(StatusCode.ERROR)


def traceparent(span: Span) -> str:
    """The header that continues the trace of a span."""
    carrier: dict[str, str] = {}
    _PROPAGATOR.inject(carrier, trace.set_span_in_context(span, Context()))
    return carrier[_TRACEPARENT]


def current_traceparent() -> str | None:
    """The header that continues the current trace; None without one."""
    if _Tracers.sampled is None:
        return None
    span = trace.get_current_span()
    return traceparent(span) if span.get_span_context().is_valid else None


def _context(parent: str | None) -> Context:
    return Context() if parent is None else _PROPAGATOR.extract({_TRACEPARENT: parent}, Context())
