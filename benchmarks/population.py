"""The visitors of a benchmark, and the request messages about them."""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple


@dataclass(frozen=True)
class Person:
    """A visitor with one vehicle, who participates in a challenge. All messages about a person are in one partition of
    their topic, as if the sender set a record key."""

    number: int
    visitor_id: str
    barcode: str
    plate: str
    participant_id: int


@dataclass(frozen=True)
class Population:
    pc_code: str
    service_id: int
    people: Sequence[Person]


class Message(NamedTuple):
    operation: str
    person: Person
    parts: dict[str, Any]


Messages = Callable[[Population, int], Iterator[Message]]


def visits(population: Population, count: int) -> Iterator[Message]:
    rng = random.Random(count)
    for _ in range(count):
        yield _visit(rng, population, rng.choice(population.people))


def mix(population: Population, count: int) -> Iterator[Message]:
    """70 % visits, 10 % points, 10 % check-ins, 5 % consents and 5 % updates of visitors."""
    rng = random.Random(count)
    makers = (_visit, _points, _checkin, _optin, _update)
    for _ in range(count):
        (make,) = rng.choices(makers, (70, 10, 10, 5, 5))
        yield make(rng, population, rng.choice(population.people))


def visit_body(rng: random.Random, population: Population, person: Person) -> dict[str, Any]:
    identification = rng.choice([{"barcode": person.barcode}, {"licensePlate": person.plate}])
    return {**identification, "pcCode": population.pc_code}


def _visit(rng: random.Random, population: Population, person: Person) -> Message:
    path = {"visitType": rng.choice(["entry", "exit"])}
    return Message("visits.create", person, {"path": path, "body": visit_body(rng, population, person)})


def _points(rng: random.Random, population: Population, person: Person) -> Message:
    path = {"visitorId": person.visitor_id, "visitorChallengeId": person.participant_id}
    return Message("visitorChallenges.addPoints", person, {"path": path, "body": {"points": rng.randint(1, 500)}})


def _checkin(rng: random.Random, population: Population, person: Person) -> Message:
    body = {"pcCode": population.pc_code, "serviceId": population.service_id, "origin": "partner"}
    return Message("checkins.create", person, {"path": {"visitorId": person.visitor_id}, "body": body})


def _optin(rng: random.Random, population: Population, person: Person) -> Message:
    optin_type = rng.choice(["commercial", "loyalty", "center", "wallet"])
    body = {"optinType": optin_type, "optinChannel": rng.choice(["sms", "push", "email"]), "isActive": True}
    return Message("optins.create", person, {"path": {"visitorId": person.visitor_id}, "body": body})


def _update(rng: random.Random, population: Population, person: Person) -> Message:
    body = {"phone": f"+336{rng.randrange(10**8):08}", "addressCity": rng.choice(["Paris", "Lyon", "Lille"])}
    return Message("visitors.update", person, {"path": {"visitorId": person.visitor_id}, "body": body})


def center() -> dict[str, Any]:
    return {"pcCode": "FR-SC-BENCH", "label": "Bench", "country": "FR", "isWestfield": True}


def visitor(number: int, pc_code: str) -> dict[str, Any]:
    return {
        "firstName": "Bench", "lastName": "Mark", "email": f"bench.{number}@example.com", "gender": "u",
        "acquisitionPcCode": pc_code, "countryCode": "FR",
        "optins": [{"optinType": "privacy", "optinChannel": "none", "isActive": True}],
    }  # fmt: skip


def service(pc_code: str) -> dict[str, Any]:
    return {
        "pcCode": pc_code, "name": "Cloakroom", "category": "comfort", "useRate": "free", "daysOfUse": [1],
        "colorCode": "#336699",
    }  # fmt: skip


def challenge(pc_code: str) -> dict[str, Any]:
    text = [{"localeCode": "en-GB", "value": "10,000 steps"}]
    return {
        "pcCode": pc_code, "genericName": "steps", "type": "step_counter", "status": "active",
        "startDate": "2020-01-01T00:00:00Z", "endDate": "2100-01-01T00:00:00Z", "winnerNumber": 3,
        "displayName": text, "description": text, "rewardDetail": text,
    }  # fmt: skip
