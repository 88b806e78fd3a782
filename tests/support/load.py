"""Traffic for the chaos tests: visits of known visitors, and updates of the same entities from many partitions."""

import random
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import uuid4

from agents.catalogue import CATALOGUE
from tests.support import data
from tests.support.oracle import Sent
from tests.support.stack import PARTITIONS, WIRE, Stack, request_topic
from topics.envelope import AVRO, JSON, RequestHeaders


@dataclass(frozen=True)
class Person:
    visitor_id: str
    barcode: str
    plate: str


@dataclass(frozen=True)
class Population:
    pc_code: str
    people: list[Person]
    service_id: int = 0
    participants: dict[str, int] = field(default_factory=dict)
    """The visitorChallengeId of each visitorId."""


async def populate(stack: Stack, sent: Sent, count: int) -> Population:
    """A center and visitors with a vehicle each, created by messages."""
    center = data.center()
    await _create(stack, sent, "centers.create", {"body": center})
    people = []
    for _ in range(count):
        visitor = await _create(stack, sent, "visitors.create", {"body": data.visitor(center["pcCode"])})
        parts = {"path": {"visitorId": visitor["visitorId"]}, "body": data.vehicle()}
        vehicle = await _create(stack, sent, "vehicles.create", parts)
        people.append(Person(visitor["visitorId"], visitor["barcode"], vehicle["licensePlate"]))
    return Population(center["pcCode"], people)


async def with_contests(stack: Stack, sent: Sent, population: Population) -> Population:
    """The same people with a service to check in at and a challenge that all have joined."""
    service = await _create(stack, sent, "services.create", {"body": data.service(population.pc_code)})
    challenge = await _create(stack, sent, "challenges.create", {"body": data.challenge(population.pc_code)})
    participants = {}
    for person in population.people:
        parts = {"path": {"visitorId": person.visitor_id}, "body": {"challengeId": challenge["challengeId"]}}
        joined = await _create(stack, sent, "visitorChallenges.create", parts)
        participants[person.visitor_id] = joined["visitorChallengeId"]
    return replace(population, service_id=service["serviceId"], participants=participants)


async def _create(stack: Stack, sent: Sent, operation: str, parts: dict[str, Any]) -> dict[str, Any]:
    request_id = await stack.send(operation, parts)
    sent.note(request_id, operation)
    result = await stack.result(operation, request_id)
    assert result.value["status"] == 201, result.value
    found: dict[str, Any] = result.value["body"]["data"]
    return found


@dataclass(frozen=True)
class Message:
    request_id: str
    operation: str
    content_type: str
    parts: dict[str, Any]


def visit(rng: random.Random, population: Population) -> Message:
    person = rng.choice(population.people)
    who = rng.choice([{"barcode": person.barcode}, {"licensePlate": person.plate}, {"visitorId": person.visitor_id}])
    parts = {"path": {"visitType": rng.choice(["entry", "exit"])}, "body": {**who, "pcCode": population.pc_code}}
    return Message(str(uuid4()), "visits.create", rng.choice([JSON, AVRO]), parts)


def update(rng: random.Random, population: Population) -> Message:
    """A change of a visitor or of the one center, which many meet at."""
    if rng.random() < 0.3:
        parts: dict[str, Any] = {"path": {"pcCode": population.pc_code}, "body": {"centerCode": rng.randrange(10_000)}}
        return Message(str(uuid4()), "centers.update", JSON, parts)
    person = rng.choice(population.people)
    parts = {"path": {"visitorId": person.visitor_id}, "body": {"addressCity": f"City {rng.randrange(10_000)}"}}
    return Message(str(uuid4()), "visitors.update", JSON, parts)


def contest(rng: random.Random, population: Population) -> Message:
    """A checkin, an optin or points."""
    visitor_id = rng.choice(population.people).visitor_id
    operation = rng.choice(["checkins.create", "optins.create", "visitorChallenges.addPoints"])
    path: dict[str, Any] = {"visitorId": visitor_id}
    body: dict[str, Any] = {"points": rng.randrange(1, 5_000)}
    if operation == "checkins.create":
        body = {"pcCode": population.pc_code, "serviceId": population.service_id, "origin": "partner"}
    elif operation == "optins.create":
        kind = rng.choice(["commercial", "loyalty"])
        body = {"optinType": kind, "optinChannel": "email", "isActive": rng.random() < 0.5}
    else:
        path["visitorChallengeId"] = population.participants[visitor_id]
    return Message(str(uuid4()), operation, rng.choice([JSON, AVRO]), {"path": path, "body": body})


async def send_all(stack: Stack, sent: Sent, rng: random.Random, messages: list[Message]) -> None:
    """Each to a partition by chance, without waiting for one before the next."""
    futures = []
    for message in messages:
        sent.note(message.request_id, message.operation)
        operation = CATALOGUE.by_name[message.operation]
        value = WIRE.write_request(operation, message.content_type, message.parts)
        head = RequestHeaders(message.request_id, message.operation, "gateway/chaos", message.content_type)
        futures.append(
            await stack.producer.send(
                request_topic(message.operation), value, headers=head.encode(), partition=rng.randrange(PARTITIONS)
            )
        )
    for future in futures:
        await future
