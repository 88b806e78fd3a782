"""The outbox entries of a change."""

from collections.abc import Iterator
from datetime import datetime

from agents.wire import Wire
from schemas.faults import Invalid
from storage import outbox
from storage.tx import EntityChange
from topics import names


def change_entries(
    wire: Wire,
    change: EntityChange,
    *,
    occurred_at: datetime,
    caused_by: str,
    traceparent: str | None = None,
    requested_at: datetime | None = None,
) -> Iterator[outbox.Entry]:
    """The change. After the deletion of an entity, a tombstone follows, because its topic is compacted. Raises Invalid
    if the entity is larger than a message may be."""
    entry = outbox.Entry(
        topic=names.changes(change.family, change.resource),
        key=change.id,
        partition_key=str(change.visitor_id or change.id),
        change_id=f"{change.resource}:{change.id}:{change.revision}",
        change_type=f"{change.resource}.{change.action}",
        value=wire.write_change(change, occurred_at=occurred_at, caused_by=caused_by),
        traceparent=traceparent,
        requested_at=requested_at,
    )
    if len(entry.value or b"") > names.REPLY_LIMIT:
        raise Invalid("too_large", f"With this, the {change.resource} would be too large; shorten its texts.")
    yield entry
    if change.action == "deleted" and not change.is_event:
        yield tombstone(entry)


def tombstone(deletion: outbox.Entry) -> outbox.Entry:
    return deletion._replace(change_id=f"{deletion.change_id}:tombstone", value=None)
