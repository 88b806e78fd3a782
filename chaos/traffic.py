"""Senders of messages with a stock Kafka client, and HTTP callers. Both repeat a request until it is acknowledged."""

import asyncio
import json
import math
import random
import time
from collections.abc import Awaitable
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import cycle
from typing import Any
from uuid import UUID

import httpx
from confluent_kafka import KafkaError, Message, Producer

from chaos.http import Http, expect, is_final
from chaos.oracle import (
    CLIENT,
    ERASURE,
    MESSAGE_FAMILIES,
    READ_BACK,
    READS,
    SOURCE,
    Comparison,
    Oracle,
    Request,
    Violation,
)

MESSAGES_PER_SECOND = 4.0
OVERLOAD = 10
CALLERS = 8
VISITORS_PER_CALLER = 4
OTHER_VISITORS = 120
"""Enough that most messages of an overload are about different visitors: those of one visitor wait for each other."""
SERVICES = 8
DUPLICATES = 0.05
"""The share of messages that are sent a second time, with the same id."""
WITHOUT_KEY = 0.3
"""The share of creating calls that have no Idempotency-Key."""
ERASE_EVERY = 24
"""After how many actions a caller erases a visitor."""
ACKNOWLEDGE_SECONDS = 60.0
_TICK_SECONDS = 0.05


@dataclass
class Visitor:
    id: str
    barcode: str
    email: str
    plate: str
    participant: int
    city: str = ""


@dataclass(frozen=True)
class Center:
    pc_code: str
    service_ids: list[int]
    challenge_id: int


@dataclass(frozen=True)
class Overload:
    """`rate` is how many messages were sent in each of the `seconds`."""

    seconds: float
    rate: float


class Unanswered(Exception):
    """A call without Idempotency-Key has no answer."""


def new_id(rng: random.Random) -> str:
    return str(UUID(int=rng.getrandbits(128), version=4))


@dataclass
class Traffic:
    oracle: Oracle
    http: Http
    seed: int
    center: Center | None = None
    visitors: list[Visitor] = field(default_factory=list)
    """Visitors that callers do not own: messages update them."""
    owned: dict[int, list[Visitor]] = field(default_factory=dict)
    """Visitors by caller. Only their caller updates and erases them."""
    rate_factor: int = 1
    stopping: bool = False
    sent: int = 0
    overloads: list[Overload] = field(default_factory=list)
    _producer: Producer | None = None

    async def populate(self) -> None:
        rng = random.Random(f"{self.seed} population")
        pc_code = f"FR-T-CHAOS{self.seed}"
        await self._create(
            rng, "centers.create", "", "/centers",
            {"pcCode": pc_code, "label": "Chaos", "country": "FR", "isWestfield": True},
        )  # fmt: skip
        services = [
            await self._create(
                rng, "services.create", "", "/services",
                {"pcCode": pc_code, "name": f"Cloakroom {number}", "category": "comfort", "useRate": "free",
                 "daysOfUse": [1, 2, 3, 4, 5, 6, 7], "colorCode": "#FFFFFF"},
            )
            for number in range(SERVICES)
        ]  # fmt: skip
        challenge = await self._create(
            rng, "challenges.create", "", "/challenges",
            {"pcCode": pc_code, "genericName": "Steps", "type": "step_counter", "startDate": "2001-01-01T00:00:00Z",
             "endDate": "2101-01-01T00:00:00Z", "winnerNumber": 3, "status": "active", "displayName": [],
             "description": [], "rewardDetail": []},
        )  # fmt: skip
        self.center = Center(pc_code, [service["serviceId"] for service in services], challenge["challengeId"])
        self.visitors = await self._new_visitors(rng, OTHER_VISITORS)
        for caller in range(CALLERS):
            self.owned[caller] = await self._new_visitors(rng, VISITORS_PER_CALLER)

    async def _new_visitors(self, rng: random.Random, count: int) -> list[Visitor]:
        limit = asyncio.Semaphore(8)

        async def create(own: random.Random) -> Visitor:
            async with limit:
                return await self._new_visitor(own)

        return await asyncio.gather(*(create(random.Random(rng.getrandbits(64))) for _ in range(count)))

    # Messages

    def connect(self) -> None:
        self._producer = Producer(
            {
                "bootstrap.servers": self.oracle.bootstrap,
                "enable.idempotence": True,
                "message.timeout.ms": 0,
                "linger.ms": 2,
                "topic.metadata.refresh.interval.ms": 1_000,
                **CLIENT,
            }
        )

    async def send(self) -> None:
        """Send messages at MESSAGES_PER_SECOND, times `rate_factor`, until `stopping`."""
        assert self._producer is not None
        rng = random.Random(f"{self.seed} messages")
        due, last = 0.0, time.monotonic()
        while not self.stopping:
            now = time.monotonic()
            due = min(due + (now - last) * MESSAGES_PER_SECOND * self.rate_factor, 500)
            last = now
            while due >= 1:
                due -= 1
                self._send_one(rng)
            self._producer.poll(0)
            await asyncio.sleep(_TICK_SECONDS)

    async def flush(self) -> None:
        """Wait until the brokers have acknowledged all messages. Raises Violation after ACKNOWLEDGE_SECONDS."""
        assert self._producer is not None
        if count := await asyncio.to_thread(self._producer.flush, ACKNOWLEDGE_SECONDS):
            raise Violation(
                f"the brokers acknowledge each message within {ACKNOWLEDGE_SECONDS:.0f} s", f"{count} messages are left"
            )

    async def overload(self, seconds: float) -> None:
        """Let OVERLOAD times the messages be sent for this long."""
        sent_before, started = self.sent, time.monotonic()
        self.rate_factor = OVERLOAD
        await asyncio.sleep(seconds)
        self.rate_factor = 1
        elapsed = time.monotonic() - started
        self.overloads.append(Overload(elapsed, (self.sent - sent_before) / elapsed))

    def _send_one(self, rng: random.Random) -> None:
        operation = rng.choice([*MESSAGE_FAMILIES, "visits.create"])
        everybody = [*self.visitors, *(visitor for owned in self.owned.values() for visitor in owned)]
        visitor = rng.choice(self.visitors if operation == "visitors.update" else everybody)
        request = Request(new_id(rng), operation, visitor.id)
        self.produce(request, self._parts(rng, request, visitor), key=visitor.id, repeated=rng.random() < DUPLICATES)

    def _parts(self, rng: random.Random, request: Request, visitor: Visitor) -> dict[str, Any]:
        assert self.center is not None
        path: dict[str, Any] = {"visitorId": visitor.id}
        if request.operation == "visits.create":
            names = [{"visitorId": visitor.id}, {"barcode": visitor.barcode}, {"licensePlate": visitor.plate}]
            body = {**rng.choice(names), "pcCode": self.center.pc_code}
            return {"path": {"visitType": rng.choice(["entry", "exit"])}, "body": body}
        if request.operation == "checkins.create":
            return {"path": path, "body": self._checkin(rng)}
        if request.operation == "optins.create":
            return {"path": path, "body": _optin(rng)}
        if request.operation == "vehicles.create":
            return {"path": path, "body": {"licensePlate": _plate(rng)}}
        if request.operation == "visitors.update":
            return {"path": path, "body": {"addressCity": _city(rng)}}
        request.amount = rng.randrange(1, 5_000)
        return {"path": {**path, "visitorChallengeId": visitor.participant}, "body": {"points": request.amount}}

    def _checkin(self, rng: random.Random) -> dict[str, Any]:
        assert self.center is not None
        return {"pcCode": self.center.pc_code, "serviceId": rng.choice(self.center.service_ids), "origin": "partner"}

    def produce(
        self, request: Request, parts: dict[str, Any], *, key: str, repeated: bool = False, partition: int = -1
    ) -> None:
        """Send a message. `partition` -1 lets the client choose by the key."""
        self.oracle.requests[request.id] = request
        headers: list[tuple[str, str | bytes | None]] = [
            ("ce_specversion", b"1.0"), ("ce_id", request.id.encode()), ("ce_source", SOURCE.encode()),
            ("ce_type", f"visitor.{request.operation}".encode()), ("content-type", b"application/json"),
        ]  # fmt: skip

        def send() -> None:
            assert self._producer is not None
            self._producer.produce(
                _topic(request.operation), json.dumps(parts).encode(), key.encode(), partition, acknowledge,
                headers=headers,
            )  # fmt: skip
            self.sent += 1

        def acknowledge(error: KafkaError | None, message: Message) -> None:
            if error is None:
                request.acknowledged, request.acknowledged_at = True, time.monotonic()
                request.position = f"{message.topic()}-{message.partition()} at {message.offset()}"
            else:
                send()

        for _ in range(1 + repeated):
            send()

    async def probe(self, rng: random.Random, recovered: dict[str, float]) -> None:
        """Return when each partition of each family has answered a new message and published its change, and each edge
        has answered a new call. `recovered` gets the seconds that each of them took, by name; they are infinite at
        first."""
        started = time.monotonic()
        partitions = [
            (operation, number) for operation in MESSAGE_FAMILIES for number in range(await self._partitions(operation))
        ]
        probes: dict[str, Request] = {}
        # One visitor for each partition: requests about one visitor wait for each other.
        for (operation, partition), visitor in zip(partitions, cycle(self.visitors)):
            request = Request(new_id(rng), operation, visitor.id)
            self.produce(request, self._parts(rng, request, visitor), key=visitor.id, partition=partition)
            probes[f"{MESSAGE_FAMILIES[operation]} {partition}"] = request

        answers: dict[str, Awaitable[Any]] = {
            **{f"edge {edge}": self._read_at(edge) for edge in range(len(self.http.edge_urls()))},
            **{f"result of {name}": self.oracle.has_result(request) for name, request in probes.items()},
            **{f"change of {name}": self.oracle.has_change(request) for name, request in probes.items()},
        }
        recovered.update(dict.fromkeys(answers, math.inf))

        async def timed(name: str, answer: Awaitable[Any]) -> None:
            await answer
            recovered[name] = time.monotonic() - started

        await asyncio.gather(*(timed(name, answer) for name, answer in answers.items()))

    async def _partitions(self, operation: str) -> int:
        """The number of partitions of an operation's topic. The producer asks itself, so that it knows partitions that
        were added a moment ago."""
        assert self._producer is not None
        topic = _topic(operation)
        metadata = await asyncio.to_thread(self._producer.list_topics, topic, timeout=60)
        return len(metadata.topics[topic].partitions)

    async def _read_at(self, edge: int) -> None:
        expect(await self.http.call("GET", f"/visitors/{self.visitors[0].id}", edge=edge), 200)

    # HTTP calls

    async def call(self, caller: int) -> None:
        """Make calls about the visitors of a caller until `stopping`, one after the other."""
        rng = random.Random(f"{self.seed} caller {caller}")
        actions = [
            self._visit, self._check_in, self._opt_in, self._add_vehicle, self._register,
            self._register_again, self._add_points, self._update, self._update,
        ]  # fmt: skip
        until_erasure = ERASE_EVERY * (caller + 1) // CALLERS
        while not self.stopping:
            visitor = rng.choice(self.owned[caller])
            until_erasure -= 1
            if until_erasure:
                with suppress(Unanswered):
                    await rng.choice(actions)(rng, visitor)
            else:
                await self._replace(rng, caller, visitor)
                until_erasure = ERASE_EVERY
            await asyncio.sleep(0.25 / self.rate_factor)

    async def _write(self, request: Request, method: str, path: str, body: Any, **headers: str) -> httpx.Response:
        """Repeat a call with its Idempotency-Key until it is answered."""
        request.over_http = True
        self.oracle.requests[request.id] = request
        answer = await self.http.call(method, path, body, {"Idempotency-Key": request.id, **headers})
        request.acknowledged, request.status = True, answer.status_code
        return answer

    async def _write_without_key(self, request: Request, method: str, path: str, body: Any) -> httpx.Response:
        """Make a call without Idempotency-Key. An answer has the key that the edge made. Raises Unanswered if there is
        no answer: it is unknown whether such a call took effect, and a repetition would be another request."""
        request.over_http, request.has_own_key = True, False
        self.http.calls += 1
        try:
            answer = await self.http.attempt(method, path, body)
        except httpx.HTTPError:
            self.oracle.lost.append(request)
            raise Unanswered from None
        key = answer.headers.get("Idempotency-Key")
        if key is None and is_final(answer):
            raise Violation("an edge returns the key that it made", f"{method} {path}: {answer.status_code}")
        if key is None:  # for example 503 too_many_connections: the edge has not read the call
            self.oracle.lost.append(request)
            raise Unanswered
        request.id = key
        if not is_final(answer):
            return await self._write(request, method, path, body)
        self.oracle.requests[key] = request
        request.acknowledged, request.status = True, answer.status_code
        return answer

    async def _create(
        self, rng: random.Random, operation: str, visitor_id: str, path: str, body: Any, *, marker: str = "",
        has_key: bool = True,
    ) -> dict[str, Any]:  # fmt: skip
        """Create something, and read it if it has a path of its own. Raises Unanswered, if `has_key` is false."""
        request = Request(new_id(rng), operation, visitor_id, marker=marker)
        write = self._write if has_key else self._write_without_key
        answer = expect(await write(request, "POST", path, body), 201)
        reply = answer.json()
        record: dict[str, Any] = reply.get("data", reply)  # visits have no envelope
        if operation == "visitors.create":
            request.visitor_id = record["visitorId"]
        if operation in READ_BACK:
            await self._read_back(operation, answer)
        return record

    async def _read_back(self, operation: str, created: httpx.Response) -> None:
        path = created.headers.get("Location", "")
        read = await self.http.call("GET", path)
        if read.status_code != 200:
            raise Violation(
                "a caller reads its own writes", f"{path}: {created.text}, then {read.status_code} {read.text}"
            )
        self.oracle.compared[Comparison(READS, operation)] += 1

    async def _new_visitor(self, rng: random.Random, *, has_key: bool = True) -> Visitor:
        """A new visitor with a vehicle and a participation in the challenge. Raises Unanswered, if `has_key` is
        false."""
        assert self.center is not None
        email, plate = f"{_letters(rng, 20)}@example.com", _plate(rng)
        visitor = await self._create(
            rng, "visitors.create", "", "/visitors", self._registration(email), marker=email, has_key=has_key
        )
        visitor_id = visitor["visitorId"]
        await self._add_vehicle_with(rng, visitor_id, plate, has_key=has_key)
        participant = await self._create(
            rng, "visitorChallenges.create", visitor_id, f"/visitors/{visitor_id}/visitorChallenges",
            {"challengeId": self.center.challenge_id}, has_key=has_key,
        )  # fmt: skip
        return Visitor(visitor_id, visitor["barcode"], email, plate, participant["visitorChallengeId"])

    def _registration(self, email: str) -> dict[str, Any]:
        assert self.center is not None
        return {
            "firstName": "Zora", "lastName": "Quill", "email": email, "gender": "f",
            "acquisitionPcCode": self.center.pc_code, "countryCode": "FR", "optins": [],
        }  # fmt: skip

    async def _add_vehicle_with(self, rng: random.Random, visitor_id: str, plate: str, *, has_key: bool) -> None:
        await self._create(
            rng, "vehicles.create", visitor_id, f"/visitors/{visitor_id}/vehicles", {"licensePlate": plate},
            marker=plate, has_key=has_key,
        )  # fmt: skip

    async def _visit(self, rng: random.Random, visitor: Visitor) -> None:
        assert self.center is not None
        body = {"barcode": visitor.barcode, "pcCode": self.center.pc_code}
        await self._create(rng, "visits.create", visitor.id, "/visits/entry", body, has_key=_draw_key(rng))

    async def _check_in(self, rng: random.Random, visitor: Visitor) -> None:
        path, body = f"/visitors/{visitor.id}/checkins", self._checkin(rng)
        await self._create(rng, "checkins.create", visitor.id, path, body, has_key=_draw_key(rng))

    async def _opt_in(self, rng: random.Random, visitor: Visitor) -> None:
        path, body = f"/visitors/{visitor.id}/optins", _optin(rng)
        await self._create(rng, "optins.create", visitor.id, path, body, has_key=_draw_key(rng))

    async def _add_vehicle(self, rng: random.Random, visitor: Visitor) -> None:
        await self._add_vehicle_with(rng, visitor.id, _plate(rng), has_key=_draw_key(rng))

    async def _register(self, rng: random.Random, _: Visitor) -> None:
        await self._new_visitor(rng, has_key=_draw_key(rng))

    async def _register_again(self, rng: random.Random, visitor: Visitor) -> None:
        """Register with the email of another visitor, which is refused."""
        request = Request(new_id(rng), "visitors.create", visitor.id)
        expect(await self._write(request, "POST", "/visitors", self._registration(visitor.email)), 409)

    async def _add_points(self, rng: random.Random, visitor: Visitor) -> None:
        request = Request(new_id(rng), "visitorChallenges.addPoints", visitor.id, rng.randrange(1, 5_000))
        path = f"/visitors/{visitor.id}/visitorChallenges/{visitor.participant}/points"
        expect(await self._write(request, "POST", path, {"points": request.amount}), 204)

    async def _update(self, rng: random.Random, visitor: Visitor) -> None:
        """Update the city, one time in two with If-Match, which is sometimes outdated; then read it."""
        path, city, headers, expected = f"/visitors/{visitor.id}", _city(rng), {}, 204
        condition = rng.random()
        if condition < 0.5:
            headers["If-Match"] = expect(await self.http.call("GET", path), 200).headers["ETag"]
        if condition < 0.2:
            headers["If-Match"], expected = '"1000000"', 412
        request = Request(new_id(rng), "visitors.update", visitor.id)
        expect(await self._write(request, "PATCH", path, {"addressCity": city}, **headers), expected)
        if expected == 204:
            visitor.city = city
        read = expect(await self.http.call("GET", path), 200).json()["data"]
        if (read.get("addressCity") or "") != visitor.city:
            raise Violation("a caller reads its own writes", f"{path}: wrote {visitor.city!r}, read {read}")
        self.oracle.compared[Comparison(READS, "visitors.update")] += 1

    async def _replace(self, rng: random.Random, caller: int, visitor: Visitor) -> None:
        """Erase a visitor, and own a new one instead."""
        self.owned[caller].remove(visitor)
        self.oracle.erased.add(visitor.id)
        path = f"/visitors/{visitor.id}"
        analytics_id = expect(await self.http.call("GET", f"{path}/externalIds/analytics"), 200).json()["data"][
            "externalId"
        ]
        request = Request(new_id(rng), ERASURE, visitor.id)
        erasure = await self._write(request, "POST", "/visitors/erase", [{"analyticsId": analytics_id}])
        if expect(erasure, 200).json()["data"]["success"] != [analytics_id]:
            raise Violation("an erasure erases", f"{path}: {erasure.text}")
        expect(await self.http.call("GET", path), 404)
        self.oracle.compared[Comparison(READS, ERASURE)] += 1
        self.owned[caller].append(await self._new_visitor(rng))


def _topic(operation: str) -> str:
    return f"visitor.{MESSAGE_FAMILIES[operation]}.requests"


def _draw_key(rng: random.Random) -> bool:
    """True if a call has an Idempotency-Key."""
    return rng.random() >= WITHOUT_KEY


def _letters(rng: random.Random, count: int) -> str:
    return "".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=count))


def _city(rng: random.Random) -> str:
    return f"City {_letters(rng, 10)}"


def _plate(rng: random.Random) -> str:
    letters = _letters(rng, 9).upper()
    return f"{letters[:6]}-{letters[6:]}"


def _optin(rng: random.Random) -> dict[str, Any]:
    kind = rng.choice(["commercial", "loyalty"])
    return {"optinType": kind, "optinChannel": "email", "isActive": rng.random() < 0.5}
