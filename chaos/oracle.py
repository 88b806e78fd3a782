"""Follows the topics while a chaos run goes on, and compares them with what was sent and with the tables.

It shares no code with the service: it decodes results as JSON, changes by the schemas of the edge's registry, and
reads the tables by SQL.
"""

import asyncio
import io
import json
import re
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import asyncpg
import fastavro
import httpx
from confluent_kafka import Consumer, KafkaError, Message, TopicPartition

SOURCE = "gateway/chaos"
CLIENT: dict[str, str | int] = {"reconnect.backoff.max.ms": 1_000, "log_level": 2}
"""Settings of all Kafka clients of a run. librdkafka would log each lost connection."""
RECOVERY_SECONDS = 30.0
"""How soon after its end the effects of a fault are over."""
RESULT_SECONDS = 180.0
"""How soon a message has its result. A message may wait for the faults of its round and for the recovery."""
WORKER_MEMORY = 256 * 2**20
EDGE_MEMORY = 256 * 2**20
FETCH_SECONDS = 2.0
"""Longer than a fetch waits for records (fetch.wait.max.ms, 500 ms)."""
_FOLLOWED = re.compile(r"visitor\.[a-z]+\.(results|changes\.[A-Za-z]+)")

EFFECTS = {
    "visits.create": ("visit", "created"),
    "checkins.create": ("checkin", "created"),
    "optins.create": ("optin", "created"),
    "visitors.update": ("visitor", "updated"),
    "visitorChallenges.addPoints": ("visitorChallenge", "updated"),
}
"""The resource and the action of the one change that each successful request of an operation makes."""
TABLES = {
    "visit": ("visits", "visit_id"),
    "checkin": ("checkins", "checkin_id"),
    "optin": ("optins", "optin_id"),
    "visitor": ("visitors", "visitor_id"),
    "vehicle": ("vehicles", "vehicle_id"),
    "visitorChallenge": ("visitor_challenges", "visitor_challenge_id"),
    "service": ("services", "service_id"),
    "center": ("centers", "pc_code"),
}
"""The table of each resource that the traffic writes, and its key."""
EVENTS = ("visit", "checkin")
_WITHOUT_CHANGE = {"last_visit_date", "last_parking_session", "checkin_count"}
"""Columns that events update without a change of the row's resource (docs/consume-changes.md)."""


class Violation(Exception):
    """A guarantee that the service broke: the rule, and the evidence."""

    def __init__(self, rule: str, evidence: str) -> None:
        super().__init__(f"{rule}\n{evidence}")


@dataclass
class Request:
    """A message or an HTTP call that changes something, with the visitor whose data it changes. `status` is that of the
    HTTP answer, or of the first result of the message."""

    id: str
    operation: str
    visitor_id: str
    amount: int = 0
    """The points of visitorChallenges.addPoints."""
    over_http: bool = False
    acknowledged: bool = False
    """The broker acknowledged the message, or the edge answered the call."""
    acknowledged_at: float = 0.0
    """When that happened (time.monotonic), for a message."""
    position: str = ""
    """The topic partition and the offset of the message."""
    status: int | None = None

    @property
    def cause(self) -> str:
        """What `causedBy` says in changes. Without API keys, all callers of an edge have the name `local`."""
        return f"local/{self.id}" if self.over_http else self.id


@dataclass
class _Key:
    """What a change topic has shown about one entity."""

    revision: int = 0
    contents: dict[int, bytes] = field(default_factory=dict)
    republished: set[bytes] = field(default_factory=set)
    last: dict[str, Any] | None = None
    deletion: bytes | None = None


@dataclass
class Oracle:
    """`requests` are all requests by id, `erased` the visitors of which an erasure was attempted."""

    bootstrap: str
    edge_urls: Callable[[], list[str]]
    requests: dict[str, Request] = field(default_factory=dict)
    erased: set[str] = field(default_factory=set)
    changes: int = 0
    results: int = 0
    _keys: dict[tuple[str, str], _Key] = field(default_factory=lambda: defaultdict(_Key))
    _result_values: dict[str, bytes] = field(default_factory=dict)
    _changes_by_cause: dict[str, set[tuple[str, str, str, int]]] = field(default_factory=lambda: defaultdict(set))
    _schemas: dict[int, Any] = field(default_factory=dict)
    _positions: dict[tuple[str, int], int] = field(default_factory=dict)
    _read_ends: dict[tuple[str, int], int] = field(default_factory=dict)
    """The end of each partition when it was last reached. It lies behind the last record: markers have offsets."""
    _consumer: Consumer | None = None
    _new_result: asyncio.Condition = field(default_factory=asyncio.Condition)

    # While the run goes on

    async def follow(self) -> None:
        """Read results and changes, and check each. Raises Violation."""
        consumer = self._consumer = Consumer(
            {
                "bootstrap.servers": self.bootstrap,
                "group.id": "chaos-oracle",  # librdkafka requires one; no offset is committed
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
                "isolation.level": "read_committed",
                "enable.partition.eof": True,
                **CLIENT,
            }
        )
        topics = await asyncio.to_thread(consumer.list_topics, timeout=30)
        partitions = [
            TopicPartition(name, number, 0)
            for name, topic in topics.topics.items() if _FOLLOWED.fullmatch(name) for number in topic.partitions
        ]  # fmt: skip
        self._positions = {(partition.topic, partition.partition): 0 for partition in partitions}
        consumer.assign(partitions)
        while True:
            for message in await asyncio.to_thread(consumer.consume, 500, 0.2):
                error = message.error()
                position = (str(message.topic()), int(message.partition() or 0))
                if error is None:
                    await self.observe(message)
                elif error.code() == KafkaError._PARTITION_EOF:
                    self._read_ends[position] = int(message.offset() or 0)
            async with self._new_result:
                self._new_result.notify_all()

    async def unread(self) -> str:
        """The first partition of which not everything was read that it had FETCH_SECONDS ago; empty if there is
        none."""
        assert self._consumer is not None
        await asyncio.sleep(FETCH_SECONDS)
        for topic, number in self._positions:
            # The end that the last fetch has told. To ask for each would wait for the fetches in progress.
            _, end = self._consumer.get_watermark_offsets(TopicPartition(topic, number), cached=True)
            read_end = self._read_ends.get((topic, number))
            if read_end is None or read_end < end:
                return f"{topic}-{number} is read up to {read_end} of {end}"
        return ""

    async def has_result(self, request_id: str) -> None:
        """Wait until a message has a result."""
        async with self._new_result:
            await self._new_result.wait_for(lambda: request_id in self._result_values)

    def unanswered(self) -> list[Request]:
        """The acknowledged messages without a result."""
        return [
            request for request in self.requests.values()
            if request.acknowledged and not request.over_http and request.id not in self._result_values
        ]  # fmt: skip

    def verify_progress(self) -> None:
        """Check that no message waits for its result any more that should have it. Raises Violation."""
        latest = time.monotonic() - RESULT_SECONDS
        if overdue := [request for request in self.unanswered() if request.acknowledged_at < latest]:
            raise Violation(f"a message has its result after {RESULT_SECONDS:.0f} s", some(overdue))

    async def observe(self, message: Message) -> None:
        """Check a record of a results topic or a change topic. Raises Violation."""
        topic, offset = str(message.topic()), int(message.offset() or 0)
        position = (topic, int(message.partition() or 0))
        if offset < self._positions.get(position, 0):
            return
        self._positions[position] = offset + 1
        if topic.endswith(".results"):
            self._observe_result(message)
        else:
            await self._observe_change(topic, message)

    def _observe_result(self, message: Message) -> None:
        headers: dict[str, bytes] = dict(message.headers() or [])  # type: ignore[arg-type]
        if headers.get("ce_requestsource") != SOURCE.encode():
            return
        self.results += 1
        request_id, value = headers["ce_id"].decode(), message.value() or b""
        request = self.requests.get(request_id)
        if request is None:
            raise Violation("every result belongs to a request", f"{request_id}: {value!r}")
        earlier = self._result_values.setdefault(request_id, value)
        if earlier == value:
            request.status = int(json.loads(value)["status"])
        elif request.visitor_id not in self.erased:
            raise Violation("each message has one result content", f"{request}\n{earlier!r}\n{value!r}")

    async def _observe_change(self, topic: str, message: Message) -> None:
        self.changes += 1
        key, raw = (message.key() or b"").decode(), message.value()
        where = f"{topic}-{message.partition()} at {message.offset()}, key {key}"
        entity = self._keys[topic, key]
        if raw is None:
            if entity.deletion is None:
                raise Violation("a tombstone follows a deletion", where)
            entity.last = None
            return
        change = await self._decode(raw)
        if entity.deletion is not None:
            if raw != entity.deletion:
                raise Violation("nothing but the deletion and tombstones follows a deletion", f"{where}: {change}")
            return
        self._check_revision(entity, change, raw, where)
        if change["action"] == "deleted":
            entity.deletion = raw
        if change["action"] != "republished":
            self._changes_by_cause[change["causedBy"]].add(
                (change["resource"], change["action"], key, change["revision"])
            )

    def _check_revision(self, entity: _Key, change: dict[str, Any], raw: bytes, where: str) -> None:
        revision = change["revision"]
        if change["action"] == "republished":
            if revision != entity.revision and raw not in entity.republished:
                raise Violation(
                    "a republished state is the newest one", f"{where}: {revision} after {entity.revision}: {change}"
                )
            entity.republished.add(raw)
        elif revision in entity.contents:
            if entity.contents[revision] != raw:
                raise Violation("a repeated change is repeated exactly", f"{where}: {change}")
        elif revision != entity.revision + 1 and not self._is_erasure(change):
            raise Violation(
                "the revisions of a key are 1..n in order", f"{where}: {revision} after {entity.revision}: {change}"
            )
        else:
            entity.revision, entity.contents[revision], entity.last = revision, raw, change

    def _is_erasure(self, change: dict[str, Any]) -> bool:
        """True for the deletion of an erased visitor's entity. Changes that an erasure overtook are never published."""
        return change["action"] == "deleted" and str(change.get("visitorId")) in self.erased

    async def _decode(self, raw: bytes) -> dict[str, Any]:
        """Decode Confluent's wire format: a zero byte, the id of the schema in four bytes, Avro."""
        schema_id = int.from_bytes(raw[1:5], "big")
        if schema_id not in self._schemas:
            self._schemas[schema_id] = fastavro.parse_schema(await self._fetch_schema(schema_id))
        value: Any = fastavro.schemaless_reader(io.BytesIO(raw[5:]), self._schemas[schema_id], None)
        return dict(value)

    async def _fetch_schema(self, schema_id: int) -> Any:
        """Ask the edges in turn, since a fault may have hit one. Raises Violation after a minute."""
        deadline = time.monotonic() + 60
        async with httpx.AsyncClient(timeout=5) as client:
            while time.monotonic() < deadline:
                for url in self.edge_urls():
                    try:
                        answer = await client.get(f"{url}/registry/schemas/ids/{schema_id}")
                    except httpx.HTTPError:
                        continue
                    if answer.status_code == 200:
                        return json.loads(answer.json()["schema"])
                await asyncio.sleep(0.5)
        raise Violation("the edges serve the schema of each change", f"schema {schema_id}")

    # At the end, when nothing is on its way any more

    async def verify(self, connection: asyncpg.Connection) -> None:
        """Compare all requests, changes and rows. Raises Violation."""
        self.verify_requests()
        for resource in TABLES:
            await self._verify_rows(connection, resource)
        await self._verify_counts(connection)

    def verify_requests(self) -> None:
        """Compare the requests with their results and changes. Raises Violation."""
        if unanswered := self.unanswered():
            raise Violation("each acknowledged message has a result", some(unanswered))
        self._verify_effects()

    def _verify_effects(self) -> None:
        """Each request that succeeded made one change, and each other request none. Of erased visitors, changes may
        never have been published."""
        for request in self.requests.values():
            if request.operation not in EFFECTS or not request.acknowledged:
                continue
            resource, action = EFFECTS[request.operation]
            effects = [
                change for change in self._changes_by_cause.get(request.cause, ()) if change[:2] == (resource, action)
            ]
            expected = 1 if request.status is not None and request.status < 300 else 0
            if len(effects) != expected and not (request.visitor_id in self.erased and len(effects) <= 1):
                raise Violation("each request that succeeded has one effect", f"{request}: {effects}")

    async def _verify_rows(self, connection: asyncpg.Connection, resource: str) -> None:
        table, key = TABLES[resource]
        rows = {str(row[key]): row for row in await connection.fetch(f"select * from {table}")}
        entities = {key: entity for (topic, key), entity in self._keys.items() if topic.endswith(f".{resource}")}
        living = {
            key: entity for key, entity in entities.items() if entity.deletion is None and not self._is_gone(entity)
        }
        if rows.keys() != living.keys():
            raise Violation(
                f"the rows of {table} are those of the changes", str(sorted(rows.keys() ^ living.keys())[:5])
            )
        for name, entity in living.items():
            self._verify_row(f"{resource} {name}", rows[name], entity)

    def _is_gone(self, entity: _Key) -> bool:
        """True for an event of an erased visitor: no deletion is published for it."""
        change = entity.last or {}
        return change.get("resource") in EVENTS and str(change.get("visitorId")) in self.erased

    @staticmethod
    def _verify_row(name: str, row: asyncpg.Record, entity: _Key) -> None:
        assert entity.last is not None
        if "revision" in row and row["revision"] != entity.revision:
            raise Violation(
                "the last change equals the row", f"{name}: row {row['revision']}, change {entity.revision}"
            )
        for field_name, value in (entity.last["after"] or {}).items():
            column = re.sub("[A-Z]", lambda match: f"_{match[0].lower()}", field_name)
            if column not in row or column in _WITHOUT_CHANGE or isinstance(value, (list, dict, float)):
                continue
            if value != row[column] and str(value) != str(row[column]):
                raise Violation("the last change equals the row", f"{name}: {column} {row[column]!r}, change {value!r}")

    async def _verify_counts(self, connection: asyncpg.Connection) -> None:
        """The tables have as many rows and points as requests succeeded."""
        for operation, table in (
            ("visits.create", "visits"),
            ("checkins.create", "checkins"),
            ("optins.create", "optins"),
        ):
            counts = Counter(request.visitor_id for request in self._successful(operation))
            rows = await connection.fetch(f"select visitor_id::text, count(*) from {table} group by 1")
            self._compare(f"rows in {table}", counts, dict(map(tuple, rows)))
        points: Counter[str] = Counter()
        for request in self._successful("visitorChallenges.addPoints"):
            points[request.visitor_id] += request.amount
        rows = await connection.fetch("select visitor_id::text, sum(points)::int from visitor_challenges group by 1")
        self._compare("points", points, dict(map(tuple, rows)))
        if wrong := await connection.fetch(
            "select service_id, checkin_count from services where checkin_count <>"
            " (select count(*) from checkins where checkins.service_id = services.service_id)"
        ):
            raise Violation("checkinCount equals the number of checkins", str(wrong))

    def _successful(self, operation: str) -> Iterable[Request]:
        return (
            request for request in self.requests.values()
            if request.operation == operation and request.status is not None and request.status < 300
        )  # fmt: skip

    def _compare(self, what: str, expected: Counter[str], actual: dict[str, int]) -> None:
        for visitor_id in expected.keys() | actual.keys():
            if visitor_id in self.erased:
                continue
            if expected[visitor_id] != actual.get(visitor_id, 0):
                raise Violation(
                    f"as many {what} as requests that succeeded",
                    f"visitor {visitor_id}: {expected[visitor_id]} expected, {actual.get(visitor_id, 0)} in the table",
                )


def some(requests: list[Request]) -> str:
    """The first of these requests, and how many they are."""
    return f"{len(requests)} requests, the first: " + "\n".join(map(str, requests[:50]))
