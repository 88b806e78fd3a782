"""Senders of messages with a stock Kafka client, and HTTP callers. Both repeat a request until it is acknowledged."""

import asyncio
import json
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import httpx
from confluent_kafka import KafkaError, Message, Producer

from chaos.oracle import CLIENT, SOURCE, Oracle, Request, Violation

MESSAGES_PER_SECOND = 4.0
OVERLOAD = 10
CALLERS = 4
VISITORS_PER_CALLER = 4
OTHER_VISITORS = 120
"""Enough that most messages of an overload are about different visitors: those of one visitor wait for each other."""
SERVICES = 8
DUPLICATES = 0.05
"""The share of messages that are sent a second time, with the same id."""
GIVE_UP_SECONDS = 180.0
_TICK_SECONDS = 0.05
_PROBED = "visitor.visits.requests"
_FAMILIES = {
    "visits.create": "visits",
    "checkins.create": "checkins",
    "optins.create": "optins",
    "visitorChallenges.addPoints": "points",
    "visitors.update": "visitors",
}


@dataclass
class Visitor:
    id: str
    barcode: str
    plate: str
    participant: int
    city: str = ""


@dataclass(frozen=True)
class Center:
    pc_code: str
    service_ids: list[int]
    challenge_id: int


def new_id(rng: random.Random) -> str:
    return str(UUID(int=rng.getrandbits(128), version=4))


class Http:
    """Calls of edges that are repeated, at another edge, until one answers with a final status. Counts the calls."""

    def __init__(self, edge_urls: Callable[[], list[str]]) -> None:
        self.edge_urls = edge_urls
        self._client = httpx.AsyncClient(timeout=12)
        self.calls = 0
        self.attempts = 0

    async def close(self) -> None:
        await self._client.aclose()

    async def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        headers: dict[str, str] | None = None,
        *,
        edge: int | None = None,
    ) -> httpx.Response:
        """Repeat a call, each time at a random edge or always at `edge`, until the answer is neither 429 nor 5xx.

        Raises Violation after GIVE_UP_SECONDS."""
        self.calls += 1
        deadline = time.monotonic() + GIVE_UP_SECONDS
        last: httpx.Response | httpx.HTTPError | None = None
        while time.monotonic() < deadline:
            self.attempts += 1
            try:
                urls = self.edge_urls()
                url = random.choice(urls) if edge is None else urls[edge]
                last = answer = await self._client.request(method, url + path, json=body, headers=headers)
            except httpx.HTTPError as error:
                last = error
            else:
                if answer.status_code < 500 and answer.status_code != 429:
                    return answer
            await asyncio.sleep(0.3)
        detail = last.text if isinstance(last, httpx.Response) else repr(last)
        raise Violation(f"each call is answered within {GIVE_UP_SECONDS:.0f} s", f"{method} {path}: {detail}")

    async def create(self, rng: random.Random, path: str, body: dict[str, Any]) -> dict[str, Any]:
        answer = await self.call("POST", path, body, {"Idempotency-Key": new_id(rng)})
        if answer.status_code != 201:
            raise Violation("valid requests are accepted", f"POST {path}: {answer.status_code} {answer.text}")
        data: dict[str, Any] = answer.json()["data"]
        return data


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
    erasures: int = 0
    _producer: Producer | None = None

    async def populate(self) -> None:
        rng = random.Random(f"{self.seed} population")
        pc_code = f"FR-T-CHAOS{self.seed}"
        await self.http.create(
            rng, "/centers", {"pcCode": pc_code, "label": "Chaos", "country": "FR", "isWestfield": True}
        )
        services = [
            await self.http.create(
                rng, "/services",
                {"pcCode": pc_code, "name": f"Cloakroom {number}", "category": "comfort", "useRate": "free",
                 "daysOfUse": [1, 2, 3, 4, 5, 6, 7], "colorCode": "#FFFFFF"},
            )
            for number in range(SERVICES)
        ]  # fmt: skip
        challenge = await self.http.create(
            rng, "/challenges",
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

    async def _new_visitor(self, rng: random.Random) -> Visitor:
        assert self.center is not None
        letters = "".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=20))
        visitor = await self.http.create(
            rng, "/visitors",
            {"firstName": "Zora", "lastName": "Quill", "email": f"{letters}@example.com", "gender": "f",
             "acquisitionPcCode": self.center.pc_code, "countryCode": "FR", "optins": []},
        )  # fmt: skip
        path = f"/visitors/{visitor['visitorId']}"
        vehicle = await self.http.create(
            rng, f"{path}/vehicles", {"licensePlate": f"{letters[:6].upper()}-{letters[6:9].upper()}"}
        )
        participant = await self.http.create(
            rng, f"{path}/visitorChallenges", {"challengeId": self.center.challenge_id}
        )
        return Visitor(
            visitor["visitorId"], visitor["barcode"], vehicle["licensePlate"], participant["visitorChallengeId"]
        )

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
        """Send messages at MESSAGES_PER_SECOND, times `rate_factor`, until `stopping`; then wait until the brokers have
        acknowledged all of them."""
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
        await asyncio.to_thread(self._producer.flush, 60)

    def _send_one(self, rng: random.Random) -> None:
        operation = rng.choice([*_FAMILIES, "visits.create"])
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
                f"visitor.{_FAMILIES[request.operation]}.requests", json.dumps(parts).encode(), key.encode(),
                partition, acknowledge, headers=headers,
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
        """Return when each partition of the visits' requests has answered a new message, and each edge a new call. Adds
        the seconds that each of them took to `recovered`, by name."""
        started = time.monotonic()
        assert self._producer is not None
        # The producer asks itself, so that it knows partitions that were added a moment ago.
        metadata = await asyncio.to_thread(self._producer.list_topics, _PROBED, timeout=60)
        partitions = len(metadata.topics[_PROBED].partitions)
        # One visitor for each partition: requests about one visitor wait for each other.
        visitors = [self.visitors[number % len(self.visitors)] for number in range(partitions)]
        probes = [Request(new_id(rng), "visits.create", visitor.id) for visitor in visitors]
        for number, (request, visitor) in enumerate(zip(probes, visitors, strict=True)):
            self.produce(request, self._parts(rng, request, visitor), key=visitor.id, partition=number)

        async def timed(name: str, answer: Awaitable[Any]) -> None:
            await answer
            recovered[name] = time.monotonic() - started

        path = f"/visitors/{visitors[0].id}"
        await asyncio.gather(
            *(
                timed(f"edge {edge}", self.http.call("GET", path, edge=edge))
                for edge in range(len(self.http.edge_urls()))
            ),
            *(timed(f"partition {number}", self.oracle.has_result(each.id)) for number, each in enumerate(probes)),
        )

    # HTTP calls

    async def call(self, caller: int) -> None:
        """Make calls about the visitors of a caller until `stopping`, one after the other."""
        rng = random.Random(f"{self.seed} caller {caller}")
        actions = [self._visit, self._checkin_and_read, self._opt_in, self._add_points, self._update, self._update]
        while not self.stopping:
            visitor = rng.choice(self.owned[caller])
            if rng.random() < 0.02:
                await self._replace(rng, caller, visitor)
            else:
                await rng.choice(actions)(rng, visitor)
            await asyncio.sleep(0.25 / self.rate_factor)

    async def _write(
        self, rng: random.Random, request: Request, method: str, path: str, body: Any, **headers: str
    ) -> httpx.Response:
        request.over_http = True
        self.oracle.requests[request.id] = request
        answer = await self.http.call(method, path, body, {"Idempotency-Key": request.id, **headers})
        request.acknowledged, request.status = True, answer.status_code
        return answer

    async def _visit(self, rng: random.Random, visitor: Visitor) -> None:
        assert self.center is not None
        body = {"barcode": visitor.barcode, "pcCode": self.center.pc_code}
        request = Request(new_id(rng), "visits.create", visitor.id)
        _expect(await self._write(rng, request, "POST", "/visits/entry", body), 201)

    async def _checkin_and_read(self, rng: random.Random, visitor: Visitor) -> None:
        path = f"/visitors/{visitor.id}/checkins"
        request = Request(new_id(rng), "checkins.create", visitor.id)
        created = _expect(await self._write(rng, request, "POST", path, self._checkin(rng)), 201)
        read = await self.http.call("GET", f"{path}/{created.json()['data']['checkinId']}")
        if read.status_code != 200:
            raise Violation(
                "a caller reads its own writes", f"{path}: {created.text}, then {read.status_code} {read.text}"
            )

    async def _opt_in(self, rng: random.Random, visitor: Visitor) -> None:
        request = Request(new_id(rng), "optins.create", visitor.id)
        _expect(await self._write(rng, request, "POST", f"/visitors/{visitor.id}/optins", _optin(rng)), 201)

    async def _add_points(self, rng: random.Random, visitor: Visitor) -> None:
        request = Request(new_id(rng), "visitorChallenges.addPoints", visitor.id, rng.randrange(1, 5_000))
        path = f"/visitors/{visitor.id}/visitorChallenges/{visitor.participant}/points"
        _expect(await self._write(rng, request, "POST", path, {"points": request.amount}), 204)

    async def _update(self, rng: random.Random, visitor: Visitor) -> None:
        """Update the city, one time in two with If-Match, which is sometimes outdated; then read it."""
        path, city, headers, expected = f"/visitors/{visitor.id}", _city(rng), {}, 204
        condition = rng.random()
        if condition < 0.5:
            headers["If-Match"] = (await self.http.call("GET", path)).headers["ETag"]
        if condition < 0.1:
            headers["If-Match"], expected = '"1000000"', 412
        request = Request(new_id(rng), "visitors.update", visitor.id)
        _expect(await self._write(rng, request, "PATCH", path, {"addressCity": city}, **headers), expected)
        if expected == 204:
            visitor.city = city
        read = _expect(await self.http.call("GET", path), 200).json()["data"]
        if (read.get("addressCity") or "") != visitor.city:
            raise Violation("a caller reads its own writes", f"{path}: wrote {visitor.city!r}, read {read}")

    async def _replace(self, rng: random.Random, caller: int, visitor: Visitor) -> None:
        """Erase a visitor, and own a new one instead."""
        self.owned[caller].remove(visitor)
        self.oracle.erased.add(visitor.id)
        path = f"/visitors/{visitor.id}"
        analytics_id = _expect(await self.http.call("GET", f"{path}/externalIds/analytics"), 200).json()["data"][
            "externalId"
        ]
        erasure = await self.http.call(
            "POST", "/visitors/erase", [{"analyticsId": analytics_id}], {"Idempotency-Key": new_id(rng)}
        )
        if _expect(erasure, 200).json()["data"]["success"] != [analytics_id]:
            raise Violation("an erasure erases", f"{path}: {erasure.text}")
        _expect(await self.http.call("GET", path), 404)
        self.erasures += 1
        self.owned[caller].append(await self._new_visitor(rng))


def _city(rng: random.Random) -> str:
    return "City " + "".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=10))


def _optin(rng: random.Random) -> dict[str, Any]:
    kind = rng.choice(["commercial", "loyalty"])
    return {"optinType": kind, "optinChannel": "email", "isActive": rng.random() < 0.5}


def _expect(answer: httpx.Response, status: int) -> httpx.Response:
    if answer.status_code != status:
        raise Violation(
            f"valid calls are answered by {status}", f"{answer.request.url}: {answer.status_code} {answer.text}"
        )
    return answer
