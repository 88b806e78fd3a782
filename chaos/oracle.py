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
from typing import Any, NamedTuple

import asyncpg
import fastavro
import httpx
from confluent_kafka import Consumer, IsolationLevel, KafkaError, Message, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]

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
DEAD_LETTERS = "visitor.dead-letters"
_FOLLOWED = re.compile(rf"visitor\.[a-z]+\.(results|changes\.[A-Za-z]+)|{re.escape(DEAD_LETTERS)}")

ERASURE = "visitors.eraseByAnalyticsId"
EFFECTS = {
    "visits.create": ("visit", "created"),
    "checkins.create": ("checkin", "created"),
    "optins.create": ("optin", "created"),
    "visitors.create": ("visitor", "created"),
    "vehicles.create": ("vehicle", "created"),
    "visitorChallenges.create": ("visitorChallenge", "created"),
    "centers.create": ("center", "created"),
    "services.create": ("service", "created"),
    "challenges.create": ("challenge", "created"),
    "visitors.update": ("visitor", "updated"),
    "visitorChallenges.addPoints": ("visitorChallenge", "updated"),
    ERASURE: ("visitor", "deleted"),
}
"""The resource and the action of the one change that each successful request of an operation makes. All operations of
the traffic are here."""
MESSAGE_FAMILIES = {
    "visits.create": "visits",
    "checkins.create": "checkins",
    "optins.create": "optins",
    "vehicles.create": "parking",
    "visitorChallenges.addPoints": "points",
    "visitors.update": "visitors",
}
"""The operations that are also sent as messages, and their families."""
READ_BACK = ("checkins.create", "optins.create", "visitors.create", "vehicles.create")
"""The operations whose answer names the path of the new record."""
TABLES = {
    "visit": ("visits", "visit_id"),
    "checkin": ("checkins", "checkin_id"),
    "optin": ("optins", "optin_id"),
    "visitor": ("visitors", "visitor_id"),
    "externalId": ("external_ids", "external_id_key"),
    "vehicle": ("vehicles", "vehicle_id"),
    "visitorChallenge": ("visitor_challenges", "visitor_challenge_id"),
    "challenge": ("challenges", "challenge_id"),
    "service": ("services", "service_id"),
    "center": ("centers", "pc_code"),
}
"""The table of each resource that the traffic writes, and its key."""
EVENTS = ("visit", "checkin")
_ROWS_BY_OPERATION = {
    "visits.create": "visits",
    "checkins.create": "checkins",
    "optins.create": "optins",
    "visitors.create": "visitors",
    "vehicles.create": "vehicles",
    "visitorChallenges.create": "visitor_challenges",
    "visitorChallenges.addPoints": "challenge_histories",
}
"""The table that has one row of the visitor for each request that succeeded."""
_WITHOUT_CHANGE = {"lastVisitDate", "lastParkingSession", "checkinCount"}
"""Fields that events update without a change of the row's resource (docs/consume-changes.md)."""


class Comparison(NamedTuple):
    """The subject of a comparison: its kind, and the operation or table if the kind has several."""

    kind: str
    subject: str = ""

    def __str__(self) -> str:
        return f"{self.kind} ({self.subject})" if self.subject else self.kind


CALLS, MESSAGES, READS = "effects of HTTP calls", "effects of messages", "own writes that were read"
ROWS, TOTALS = "rows and changes", "totals of visitors"
REFUSED, WITHOUT_KEY = Comparison("calls that were refused"), Comparison("calls without Idempotency-Key")
LOST, REPUBLISHED = Comparison("calls without answer that took effect"), Comparison("republished states")
_POINTS = "points"
REQUIRED = (
    *(Comparison(CALLS, operation) for operation in EFFECTS),
    *(Comparison(MESSAGES, operation) for operation in MESSAGE_FAMILIES),
    *(Comparison(READS, operation) for operation in (*READ_BACK, "visitors.update", ERASURE)),
    *(Comparison(ROWS, table) for table, _ in TABLES.values()),
    *(Comparison(TOTALS, table) for table in (*_ROWS_BY_OPERATION.values(), _POINTS)),
    REFUSED, WITHOUT_KEY,
)  # fmt: skip
"""Of what each run must have compared something. Whether calls lose their answers, and whether a short run republishes,
depends on the faults."""


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
    marker: str = ""
    """A text that only the record of this request has; empty if there is none."""
    over_http: bool = False
    has_own_key: bool = True
    """False for a call without Idempotency-Key. Its `id` is unknown until the edge has answered."""
    acknowledged: bool = False
    """The broker acknowledged the message, or the edge answered the call."""
    acknowledged_at: float = 0.0
    """When that happened (time.monotonic), for a message."""
    position: str = ""
    """The topic partition and the offset of the message."""
    status: int | None = None

    @property
    def succeeded(self) -> bool:
        return self.status is not None and self.status < 300

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
    """`requests` are all requests by id, `lost` the calls without Idempotency-Key that got no answer, `erased` the
    visitors of which an erasure was attempted, `compared` what was compared how often."""

    bootstrap: str
    edge_urls: Callable[[], list[str]]
    requests: dict[str, Request] = field(default_factory=dict)
    lost: list[Request] = field(default_factory=list)
    erased: set[str] = field(default_factory=set)
    compared: Counter[Comparison] = field(default_factory=Counter)
    changes: int = 0
    results: int = 0
    _keys: dict[tuple[str, str], _Key] = field(default_factory=lambda: defaultdict(_Key))
    _result_values: dict[str, bytes] = field(default_factory=dict)
    _changes_by_cause: dict[str, set[tuple[str, str, str, int]]] = field(default_factory=lambda: defaultdict(set))
    _changes_of_strangers: dict[str, list[dict[str, Any]]] = field(default_factory=lambda: defaultdict(list))
    """The changes whose cause was not known when they were read, by cause."""
    _schemas: dict[int, Any] = field(default_factory=dict)
    _positions: dict[tuple[str, int], int] = field(default_factory=dict)
    _read_ends: dict[tuple[str, int], int] = field(default_factory=dict)
    """The end of each partition when it was last reached. It lies behind the last record: markers have offsets."""
    _consumer: Consumer | None = None
    _new_records: asyncio.Condition = field(default_factory=asyncio.Condition)

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
            async with self._new_records:
                self._new_records.notify_all()

    async def unread(self) -> str:
        """The first partition of which not everything is read that it has now; empty if there is none."""
        ends = await asyncio.to_thread(self._ends)
        await asyncio.sleep(FETCH_SECONDS)
        for (topic, number), end in ends.items():
            read_end = self._read_ends.get((topic, number))
            if read_end is None or read_end < end:
                return f"{topic}-{number} is read up to {read_end} of {end}"
        return "" if ends else "no partition is followed"

    def _ends(self) -> dict[tuple[str, int], int]:
        """The end of each partition. Another client asks for them: the one that reads would tell what it has seen."""
        admin = AdminClient({"bootstrap.servers": self.bootstrap, **CLIENT})
        latest: Any = OffsetSpec.latest()  # type: ignore[no-untyped-call]
        specs = {TopicPartition(*position): latest for position in self._positions}
        futures = admin.list_offsets(specs, isolation_level=IsolationLevel.READ_COMMITTED, request_timeout=30)
        return {(item.topic, item.partition): future.result().offset for item, future in futures.items()}

    async def has_result(self, request: Request) -> None:
        """Wait until a message has a result."""
        async with self._new_records:
            await self._new_records.wait_for(lambda: request.id in self._result_values)

    async def has_change(self, request: Request) -> None:
        """Wait until a change of a request is published."""
        async with self._new_records:
            await self._new_records.wait_for(lambda: request.cause in self._changes_by_cause)

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
        if topic == DEAD_LETTERS:
            raise Violation("no valid request becomes a dead letter", f"{message.headers()}")
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
        status = int(json.loads(value)["status"])
        if earlier == value:
            request.status = status
        if request.visitor_id in self.erased:
            return
        if earlier != value:
            raise Violation("each message has one result content", f"{request}\n{earlier!r}\n{value!r}")
        if status >= 300:
            raise Violation("valid messages are accepted", f"{request}\n{value!r}")

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
        if change["action"] == "republished":
            return
        cause = change["causedBy"]
        self._changes_by_cause[cause].add((change["resource"], change["action"], key, change["revision"]))
        if not self._is_known(cause):
            self._changes_of_strangers[cause].append(change)

    def _is_known(self, cause: str) -> bool:
        request = self.requests.get(cause.removeprefix("local/"))
        return request is not None and request.cause == cause

    def _check_revision(self, entity: _Key, change: dict[str, Any], raw: bytes, where: str) -> None:
        revision = change["revision"]
        if change["action"] == "republished":
            if revision != entity.revision and raw not in entity.republished:
                raise Violation(
                    "a republished state is the newest one", f"{where}: {revision} after {entity.revision}: {change}"
                )
            if revision == entity.revision:
                self._compare_republished(entity, change, where)
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

    def _compare_republished(self, entity: _Key, change: dict[str, Any], where: str) -> None:
        assert entity.last is not None
        if _stable_fields(change) != _stable_fields(entity.last):
            raise Violation("a republished state equals the last change", f"{where}: {change}, last {entity.last}")
        self.compared[REPUBLISHED] += 1

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
        self._verify_resources()
        for resource in TABLES:
            await self._verify_rows(connection, resource)
        await self._verify_counts(connection)
        self.verify_comparisons()

    def verify_comparisons(self) -> None:
        """Check that there was something to compare: nothing equals nothing. Raises Violation."""
        if missing := [str(item) for item in REQUIRED if not self.compared[item]]:
            raise Violation("a run compares something of each kind", f"nothing of: {', '.join(missing)}")

    def verify_requests(self) -> None:
        """Compare the requests with their results and changes. Raises Violation."""
        if unanswered := self.unanswered():
            raise Violation("each acknowledged message has a result", some(unanswered))
        if pending := [request for request in self.requests.values() if not request.acknowledged]:
            raise Violation("each request is acknowledged", some(pending))
        self._attribute_changes()
        self._verify_effects()

    def _attribute_changes(self) -> None:
        """Find the unanswered calls that took effect. The oracle does not know their request ids, so each of them may
        explain the changes of one unknown cause."""
        for cause, changes in self._changes_of_strangers.items():
            if self._is_known(cause):
                continue
            request = next((call for call in self.lost if self._may_have_caused(call, changes)), None)
            if request is None:
                raise Violation("each change is made by one request", f"{cause}: {changes}")
            self.lost.remove(request)
            request.id, request.acknowledged, request.status = cause.removeprefix("local/"), True, 201
            request.visitor_id = request.visitor_id or str(changes[0]["visitorId"])
            self.requests[request.id] = request
            self.compared[LOST] += 1

    def _may_have_caused(self, call: Request, changes: list[dict[str, Any]]) -> bool:
        if call.visitor_id in self.erased:  # the change that matters may never have been published
            return any(str(change["visitorId"]) == call.visitor_id for change in changes)
        return any(
            (change["resource"], change["action"]) == EFFECTS[call.operation] and _is_about(change, call)
            for change in changes
        )

    def _verify_effects(self) -> None:
        """Each request that succeeded made one change, and each other request none."""
        for request in self.requests.values():
            changes = self._changes_by_cause.get(request.cause, set())
            effects = [change for change in changes if change[:2] == EFFECTS[request.operation]]
            if self._may_lack_changes(request):
                is_right = len(effects) <= 1
            elif request.succeeded:
                is_right = len(effects) == 1
            else:
                is_right = not changes
            if not is_right:
                raise Violation("each request that succeeded has one effect, any other none", f"{request}: {changes}")
            self._count(request)

    def _may_lack_changes(self, request: Request) -> bool:
        """True if an erasure may have overtaken the changes of the request."""
        return request.visitor_id in self.erased and request.operation != ERASURE

    def _count(self, request: Request) -> None:
        if self._may_lack_changes(request):
            return
        if not request.succeeded:
            self.compared[REFUSED] += 1
            return
        self.compared[Comparison(CALLS if request.over_http else MESSAGES, request.operation)] += 1
        if not request.has_own_key:
            self.compared[WITHOUT_KEY] += 1

    def _verify_resources(self) -> None:
        """Check that the rows of each resource are compared of which there was a change."""
        resources = {topic.rpartition(".")[2] for topic, _ in self._keys}
        if unknown := resources - TABLES.keys():
            raise Violation("the oracle compares the table of each resource", f"not those of {sorted(unknown)}")

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
        self.compared[Comparison(ROWS, table)] += len(living)

    def _is_gone(self, entity: _Key) -> bool:
        """True for an event of an erased visitor: no deletion is published for it."""
        change = entity.last or {}
        return change.get("resource") in EVENTS and str(change.get("visitorId")) in self.erased

    @staticmethod
    def _verify_row(name: str, row: asyncpg.Record, entity: _Key) -> None:
        rule, last = "the last change equals the row", entity.last
        if last is None or not last["after"]:
            raise Violation(rule, f"{name}: no state in {last}")
        if row["revision"] != entity.revision:
            raise Violation(rule, f"{name}: row {row['revision']}, change {entity.revision}")
        for field_name, value in _stable_fields(last).items():
            column = re.sub("[A-Z]", lambda match: f"_{match[0].lower()}", field_name)
            if column not in row or str(value) != str(row[column]):
                raise Violation(rule, f"{name}: {column} {row.get(column)!r}, change {value!r}")

    async def _verify_counts(self, connection: asyncpg.Connection) -> None:
        """The tables have as many rows and points as requests succeeded."""
        for operation, table in _ROWS_BY_OPERATION.items():
            counts = Counter(request.visitor_id for request in self._successful(operation))
            rows = await connection.fetch(f"select visitor_id::text, count(*) from {table} group by 1")
            self._compare(table, counts, dict(map(tuple, rows)))
        points: Counter[str] = Counter()
        for request in self._successful("visitorChallenges.addPoints"):
            points[request.visitor_id] += request.amount
        rows = await connection.fetch(
            "select visitor_id::text, sum(points)::int from visitor_challenges where points <> 0 group by 1"
        )
        self._compare(_POINTS, points, dict(map(tuple, rows)))
        if wrong := await connection.fetch(
            "select service_id, checkin_count from services where checkin_count <>"
            " (select count(*) from checkins where checkins.service_id = services.service_id)"
        ):
            raise Violation("checkinCount equals the number of checkins", str(wrong))

    def _successful(self, operation: str) -> Iterable[Request]:
        return (
            request for request in self.requests.values() if request.operation == operation and request.succeeded
        )  # fmt: skip

    def _compare(self, table: str, expected: Counter[str], actual: dict[str, int]) -> None:
        for visitor_id in expected.keys() | actual.keys():
            if visitor_id in self.erased:
                continue
            if expected[visitor_id] != actual.get(visitor_id, 0):
                raise Violation(
                    f"as many {table} as requests that succeeded",
                    f"visitor {visitor_id}: {expected[visitor_id]} expected, {actual.get(visitor_id, 0)} in the table",
                )
            self.compared[Comparison(TOTALS, table)] += 1


def _stable_fields(change: dict[str, Any]) -> dict[str, Any]:
    """The fields of a change that only a request for its resource can change."""
    after: dict[str, Any] = change.get("after") or {}
    return {name: value for name, value in after.items() if name not in _WITHOUT_CHANGE}


def _is_about(change: dict[str, Any], call: Request) -> bool:
    if call.marker:
        return call.marker in (change["after"] or {}).values()
    return str(change["visitorId"]) == call.visitor_id


def some(requests: list[Request]) -> str:
    """The first of these requests, and how many they are."""
    return f"{len(requests)} requests, the first: " + "\n".join(map(str, requests[:50]))
