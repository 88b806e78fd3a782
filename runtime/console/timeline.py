"""The timeline of one visitor: visits, consents as of a time, requests, and changes. It has ids, states and times, and
no names, emails or plates."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Literal
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from agents.catalogue import CATALOGUE
from agents.families.checkins.checkins import CHECKINS
from agents.families.optins.optins import OPTINS, Optin
from agents.families.visitors.visitor_table import VISITORS
from agents.families.visits.visits import VISITS
from runtime.console.servers import reading, searching_kafka
from runtime.console.view import View
from runtime.consume import Values
from schemas.faults import Unavailable
from storage import deletions, inbox
from storage.table import Table
from topics.kafka import partition_of
from topics.settings import KafkaSettings
from topics.snapshot import Period

ROWS_LIMIT = 200
"""Visits, check-ins and requests of a timeline: the newest of each."""
RECORDS_LIMIT = 50_000
"""Messages in which the changes of a visitor are searched."""

EventKind = Literal["visit", "checkin", "consent", "request", "change", "deletion"]


class Event(View):
    """Something that happened. `name` says what, for example `entry` or `optins.create`; `subject` names the center,
    the consent, the entity or the sender."""

    kind: EventKind
    time: datetime
    name: str
    subject: str | None = None
    status: int | None = None
    """Of a request."""
    request_id: str | None = None
    """The request, or the request that caused the change."""


class Consent(View):
    """The state of one consent at a time."""

    optin_id: int
    optin_type: str
    optin_channel: str
    context_id: int | None
    state: Literal["given", "refused", "withdrawn"]
    since: datetime


class Timeline(View):
    visitor_id: UUID
    exists: bool
    """False if the visitor never existed or was erased."""
    account_type: str | None
    creation_date: datetime | None
    update_date: datetime | None
    at: datetime
    """The time of the consents."""
    consents: list[Consent]
    events: list[Event]
    """Newest first."""
    notes: list[str]
    """What could not be read, and what is left out."""


class Timelines:
    """Makes timelines."""

    def __init__(self, kafka: KafkaSettings, database: AsyncEngine, values: Values) -> None:
        self._kafka = kafka
        self._database = database
        self._values = values

    async def find(self, visitor_id: UUID, at: datetime, hours: int) -> Timeline:
        """The timeline of a visitor, with the consents as they were at `at` and the changes of the last `hours`. Raises
        Unavailable if PostgreSQL does not answer."""
        notes: list[str] = []
        async with reading(self._database) as conn:
            visitor = (await conn.execute(_select(VISITORS, visitor_id))).first()
            optins = [OPTINS.to_row(row) for row in await conn.execute(_select(OPTINS, visitor_id))]
            events = [
                *await _visits(conn, visitor_id),
                *await _checkins(conn, visitor_id),
                *_consent_events(optins),
                *await _requests(conn, visitor_id),
                *await _deletions(conn, visitor_id),
            ]
        try:
            async with searching_kafka():
                events += await self._changes(visitor_id, hours, notes)
        except Unavailable as fault:
            notes.append(fault.entries[0].message)
        if visitor is None:
            notes.append(
                "There is no such visitor: it never existed, or it was erased. Answers to its requests name it no more."
            )
        return Timeline(
            visitor_id=visitor_id,
            exists=visitor is not None,
            account_type=visitor and visitor.account_type,
            creation_date=visitor and visitor.creation_date,
            update_date=visitor and visitor.update_date,
            at=at,
            consents=consents_at(optins, at),
            events=sorted(events, key=lambda event: event.time, reverse=True),
            notes=notes,
        )

    async def _changes(self, visitor_id: UUID, hours: int, notes: list[str]) -> list[Event]:
        """The changes of the visitor's entities on the change topics. Each topic has them in one partition, that of the
        visitor's id."""
        now = datetime.now(UTC)
        period = Period(self._kafka, now - timedelta(hours=hours), now, RECORDS_LIMIT)
        text = str(visitor_id)
        topics = [topic.name for topic in CATALOGUE.change_topics]
        events = []
        async for record in period.records(topics, lambda count: partition_of(text.encode(), count)):
            if record.value is None or text.encode() not in record.value:
                continue
            value = await self._values.read(None, record.value)
            if str(value.get("visitorId")) == text:
                events.append(_change(value))
        if not period.is_complete:
            notes.append(f"Only the first {RECORDS_LIMIT:,} messages of the change topics were searched for changes.")
        return events


def consents_at(optins: Sequence[Optin], at: datetime) -> list[Consent]:
    """The consents at a time: of each type, channel and context, the optin that was created last before it. `optins`
    are all of a visitor."""
    newest: dict[tuple[str, str, int | None], Optin] = {}
    for optin in sorted(optins, key=lambda each: each.optin_id):
        if optin.creation_date <= at:
            newest[optin.optin_type, optin.optin_channel, optin.context_id] = optin
    return [_consent(optin, at) for optin in newest.values()]


def _consent(optin: Optin, at: datetime) -> Consent:
    state, since = "refused", optin.optout_date
    if optin.optin_date is not None:
        is_withdrawn = optin.optout_date is not None and optin.optout_date <= at
        state, since = ("withdrawn", optin.optout_date) if is_withdrawn else ("given", optin.optin_date)
    return Consent(
        optin_id=optin.optin_id,
        optin_type=optin.optin_type,
        optin_channel=optin.optin_channel,
        context_id=optin.context_id,
        state=state,
        since=since,
    )


def _select(table: Table[Any], visitor_id: UUID) -> sa.Select[Any]:
    return sa.select(table.sql).where(table.columns.visitor_id == visitor_id)


def _newest(table: Table[Any], visitor_id: UUID, date: str) -> sa.Select[Any]:
    return _select(table, visitor_id).order_by(table.columns[date].desc()).limit(ROWS_LIMIT)


async def _visits(conn: AsyncConnection, visitor_id: UUID) -> list[Event]:
    rows = await conn.execute(_newest(VISITS, visitor_id, "visit_date"))
    return [Event(kind="visit", time=row.visit_date, name=row.visit_type, subject=row.pc_code) for row in rows]


async def _checkins(conn: AsyncConnection, visitor_id: UUID) -> list[Event]:
    rows = await conn.execute(_newest(CHECKINS, visitor_id, "creation_date"))
    return [Event(kind="checkin", time=row.creation_date, name="check-in", subject=row.pc_code) for row in rows]


def _consent_events(optins: Sequence[Optin]) -> list[Event]:
    events = []
    for optin in optins:
        subject = f"{optin.optin_type}, {optin.optin_channel}"
        subject += "" if optin.context_id is None else f", context {optin.context_id}"
        if optin.optin_date is not None:
            events.append(Event(kind="consent", time=optin.optin_date, name="given", subject=subject))
        if optin.optout_date is not None:
            name = "refused" if optin.optin_date is None else "withdrawn"
            events.append(Event(kind="consent", time=optin.optout_date, name=name, subject=subject))
    return events


async def _requests(conn: AsyncConnection, visitor_id: UUID) -> list[Event]:
    accesses = await inbox.accesses(conn, visitor_id)
    return [
        Event(
            kind="request",
            time=access.time,
            name=access.operation,
            subject=access.source or None,
            status=access.status,
            request_id=access.request_id,
        )
        for access in accesses[-ROWS_LIMIT:]
    ]


async def _deletions(conn: AsyncConnection, visitor_id: UUID) -> list[Event]:
    rows = await deletions.of_visitor(conn, visitor_id)
    return [
        Event(kind="deletion", time=row.deleted_at, name="deleted", subject=f"{row.topic.rpartition('.')[2]} {row.key}")
        for row in rows
    ]


def _change(value: Any) -> Event:
    return Event(
        kind="change",
        time=value["occurredAt"],
        name=f"{value['resource']} {value['action']}",
        subject=f"{value['resource']} {value['id']}, revision {value['revision']}",
        request_id=value["causedBy"],
    )
