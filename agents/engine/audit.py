"""Which visitors' data a request was about, for the audit log."""

from collections.abc import Iterable, Iterator
from typing import Any
from uuid import UUID

from agents.engine.decode import Decoded, InvalidRecord, ValidRequest
from agents.operation import Existing
from schemas.replies import Page
from topics import audit


def log(decoded: Iterable[Decoded]) -> None:
    """Write a line for each request that has an answer. Messages that are no requests are dead letters."""
    if not audit.is_enabled():
        return
    for incoming in decoded:
        if not isinstance(incoming, InvalidRecord) and incoming.answer is not None:
            record = incoming.record
            audit.write(
                caller=incoming.headers.source,
                operation=incoming.operation.name,
                visitors=set(_visitors(incoming)) if isinstance(incoming, ValidRequest) else (),
                status=incoming.answer.status,
                via=f"{record.topic}:{record.partition}:{record.offset}",
            )


def visitors_in(value: Any) -> set[UUID]:
    """The visitors of the records that a handler returned."""
    if isinstance(value, Existing):
        value = value.value
    records = value.items if isinstance(value, Page) else [value]
    return {record.visitor_id for record in records if getattr(record, "visitor_id", None) is not None}


def _visitors(incoming: ValidRequest) -> Iterator[UUID]:
    yield from incoming.visitors
    yield from incoming.erased
    request = incoming.request
    for part in (request.path, request.query, request.body):
        visitor_id = getattr(part, "visitor_id", None)
        if visitor_id is not None:
            yield visitor_id
