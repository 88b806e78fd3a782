"""Request messages for the chaos tests: visits of a few visitors, and updates of them from all partitions."""

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
    """Create a center and visitors, each with a vehicle, by messages."""
    center = data.center()
    await _create(stack, sent, "centers.create", {"body": center})
    people = []
    for _ in range(count):
        visitor = await _create(stack, sent, "visitors.create", {"body": data.visitor(center["pcCode"])})
        parts = {"path": {"visitorId": visitor["visitorId"]}, "body": data.vehicle()}
        vehicle = await _create(stack, sent, "vehicles.create", parts)
        people.append(Person(visitor["visitorId"], visitor["barcode"], vehicle["licensePlate"]))
    return Population(center["pcCode"], people)


async def with_challenge(stack: Stack, sent: Sent, population: Population) -> Population:
    """Create a service for checkins, and a challenge that all visitors join."""
    service = await _create(stack, sent, "services.create", {"body": data.service(population.pc_code)})
    challenge = await _create(stack, sent, "challenges.create", {"body": data.challenge(population.pc_code)})
    participants = {}
    for person in population.people:
        parts = {"path": {"visitorId": person.visitor_id}, "body": {"challengeId": challenge["challengeId"]}}
        participant = await _create(stack, sent, "visitorChallenges.create", parts)
        participants[person.visitor_id] = participant["visitorChallengeId"]
    return replace(population, service_id=service["serviceId"], participants=participants)


async def _create(stack: Stack, sent: Sent, operation: str, parts: dict[str, Any]) -> dict[str, Any]:
    request_id = await stack.send(operation, parts)
    sent.note(request_id, operation)
    result = await stack.result(operation, request_id)
    assert result.value["status"] == 201, result.value
    entity: dict[str, Any] = result.value["body"]["data"]
    return entity


@dataclass(frozen=True)
class Message:
    request_id: str
    operation: str
    content_type: str
    parts: dict[str, Any]


def visit(rng: random.Random, population: Population) -> Message:
    """An entry or an exit of a random visitor."""
    person = rng.choice(population.people)
    identifier = rng.choice(
        [{"barcode": person.barcode}, {"licensePlate": person.plate}, {"visitorId": person.visitor_id}]
    )
    parts = {"path": {"visitType": rng.choice(["entry", "exit"])}, "body": {**identifier, "pcCode": population.pc_code}}
    return Message(str(uuid4()), "visits.create", rng.choice([JSON, AVRO]), parts)


def update(rng: random.Random, population: Population) -> Message:
    """An update of a random visitor, or of the center. The center is updated from all partitions at once."""
    if rng.random() < 0.3:
        parts: dict[str, Any] = {"path": {"pcCode": population.pc_code}, "body": {"centerCode": rng.randrange(10_000)}}
        return Message(str(uuid4()), "centers.update", JSON, parts)
    person = rng.choice(population.people)
    parts = {"path": {"visitorId": person.visitor_id}, "body": {"addressCity": f"City {rng.randrange(10_000)}"}}
    return Message(str(uuid4()), "visitors.update", JSON, parts)


def activity(rng: random.Random, population: Population) -> Message:
    """A checkin, an optin or points of a random visitor of a population `with_challenge`."""
    visitor_id = rng.choice(population.people).visitor_id
    operation = rng.choice(["checkins.create", "optins.create", "visitorChallenges.addPoints"])
    path: dict[str, Any] = {"visitorId": visitor_id}
    body: dict[str, Any]
    if operation == "checkins.create":
        body = {"pcCode": population.pc_code, "serviceId": population.service_id, "origin": "partner"}
    elif operation == "optins.create":
        optin_type = rng.choice(["commercial", "loyalty"])
        body = {"optinType": optin_type, "optinChannel": "email", "isActive": rng.random() < 0.5}
    else:
        path["visitorChallengeId"] = population.participants[visitor_id]
        body = {"points": rng.randrange(1, 5_000)}
    return Message(str(uuid4()), operation, rng.choice([JSON, AVRO]), {"path": path, "body": body})


async def send_all(stack: Stack, sent: Sent, rng: random.Random, messages: list[Message]) -> None:
    """Send each message to a random partition. Waits for the acknowledgements after the last message."""
    futures = []
    for message in messages:
        sent.note(message.request_id, message.operation)
        operation = CATALOGUE.by_name[message.operation]
        value = WIRE.write_request(operation, message.content_type, message.parts)
        headers = RequestHeaders(message.request_id, message.operation, "gateway/chaos", message.content_type)
        future = await stack.producer.send(
            request_topic(message.operation), value, headers=headers.encode(), partition=rng.randrange(PARTITIONS)
        )
        futures.append(future)
    for future in futures:
        await future
