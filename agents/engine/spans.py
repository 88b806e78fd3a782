"""The spans of a worker: one for each request, batch and change. Without tracing, there are none."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

from opentelemetry.trace import Span, SpanKind

from agents.engine.decode import Decoded, InvalidRecord, RefusedRequest, ValidRequest
from storage import outbox
from telemetry import traces


def of_batch(decoded: Iterable[Decoded]) -> AbstractContextManager[None]:
    """A span for each request, until `end`, and one for their batch, with links to them. Requests without a trace get
    that of their span. The context keeps no reference to the requests."""
    if not traces.is_enabled():
        return nullcontext()
    return _batch([_start_request(incoming) for incoming in decoded if not isinstance(incoming, InvalidRecord)])


def _start_request(incoming: RefusedRequest | ValidRequest) -> Span:
    record, headers = incoming.record, incoming.headers
    attributes: traces.Attributes = {
        "messaging.system": "kafka",
        "messaging.operation.type": "process",
        "messaging.destination.name": record.topic,
        "messaging.destination.partition.id": str(record.partition),
        "messaging.kafka.offset": record.offset,
        "messaging.message.id": headers.request_id,
    }
    name = f"process {incoming.operation.name}"
    incoming.span = span = traces.start(name, SpanKind.CONSUMER, attributes, headers.traceparent)
    if headers.traceparent is None:
        incoming.headers = headers._replace(traceparent=traces.traceparent(span))
    return span


@contextmanager
def _batch(spans: Sequence[Span]) -> Iterator[None]:
    try:
        with traces.batch("batch", spans, {"messaging.batch.message_count": len(spans)}):
            yield
    finally:
        # Those that have not ended are in one of the next batches.
        for span in spans:
            if span.is_recording():
                traces.fail(span, "not_answered")
                span.end()


def end(decoded: Iterable[Decoded]) -> None:
    """End the spans of requests whose results Kafka has."""
    if not traces.is_enabled():
        return
    for incoming in decoded:
        if isinstance(incoming, InvalidRecord) or incoming.span is None or incoming.answer is None:
            continue
        incoming.span.set_attribute("visitor.status", incoming.answer.status)
        if incoming.answer.status >= 500:
            traces.fail(incoming.span, str(incoming.answer.status))
        incoming.span.end()


@contextmanager
def of_changes(entries: Sequence[outbox.Entry]) -> Iterator[Sequence[outbox.Entry]]:
    """A span for each change that a request has caused, from its claim to the end of Kafka's transaction. The entries
    that are to be sent continue its trace."""
    if not traces.is_enabled():
        yield entries
        return
    spans = [_start_change(entry) for entry in entries]
    try:
        yield [
            entry if span is None else entry._replace(traceparent=traces.traceparent(span))
            for entry, span in zip(entries, spans, strict=True)
        ]
    except Exception as error:
        for span in spans:
            if span is not None:
                traces.fail(span, type(error).__name__)
        raise
    finally:
        for span in spans:
            if span is not None:
                span.end()


def _start_change(entry: outbox.Entry) -> Span | None:
    if entry.traceparent is None:
        return None
    attributes = {
        "messaging.system": "kafka",
        "messaging.operation.type": "send",
        "messaging.destination.name": entry.topic,
        "visitor.change": entry.change_type,
    }
    return traces.start(f"publish {entry.change_type}", SpanKind.PRODUCER, attributes, entry.traceparent)
