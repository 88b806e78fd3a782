"""What happens in a simulation, derived from a seed: the same seed, people and rates give the same plan.

All times are simulated seconds since the start, which is 09:00 of the first day."""

import heapq
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from runtime.dev.sample import SamplePerson

VisitType = Literal["entry", "exit"]
Action = Literal["profile", "rewards", "visits", "consent", "address"]

DAY, HOUR, MINUTE = 86_400, 3_600, 60
START_HOUR = 9
_HOURS = (
    0.1, 0.05, 0.05, 0.05, 0.05, 0.1, 0.2, 0.4, 0.6, 0.9, 1.1, 1.4,
    1.9, 1.7, 1.3, 1.3, 1.5, 2.0, 2.1, 1.8, 1.1, 0.6, 0.3, 0.2,
)  # fmt: skip
"""How busy a center is in each hour of the day, with rush hours at noon and in the evening."""
_BUSIEST, _AVERAGE = max(_HOURS), sum(_HOURS) / len(_HOURS)

MEAN_STAY = 75 * MINUTE
_STAY = (20 * MINUTE, 4 * HOUR)
_LATE, _DELAY = 0.03, (20, 10 * MINUTE)
"""The share of messages that reach the network late, and by how much."""
_REPEATED, _REPEATED_AFTER = 0.02, (1, 5 * MINUTE)
"""The share of messages that a gateway sends twice, and how much later."""
_BY_PLATE = 0.7
"""The share of visitors who come by car; the others show their barcode at a door."""
_ONLINE, _OFFLINE = 6 * HOUR, (5 * MINUTE, 40 * MINUTE)
"""How long a gateway is online on average, and then offline."""
_ACTIONS: dict[Action, float] = {"profile": 5, "rewards": 2, "visits": 2, "consent": 1, "address": 1}


@dataclass(frozen=True)
class Passage:
    """A person passes a gateway, which identifies the person by the licence plate or by the barcode."""

    number: int
    at: float
    gateway: str
    person: SamplePerson
    by_plate: bool
    visit_type: VisitType


@dataclass(frozen=True, order=True)
class Send:
    """A gateway sends the message about a passage: at once, late, after it was offline, or again."""

    at: float
    passage_at: float
    number: int
    passage: Passage = field(compare=False)
    reason: Literal["prompt", "late", "backlog", "repeated"] = field(compare=False)


@dataclass(frozen=True)
class Call:
    """An app user calls the HTTP API."""

    number: int
    at: float
    person: SamplePerson
    action: Action


def people_needed(rate: float, until: float) -> int:
    """How many people can make `rate` passages per second in the busiest hour, and at most as many as come until the
    end."""
    entries = rate / 2 * _BUSIEST / _AVERAGE
    return int(entries * min(until, 1.5 * MEAN_STAY)) + 1


def sends(seed: int, people: Sequence[SamplePerson], rate: float, until: float) -> Iterator[Send]:
    """The messages of all gateways in the order of sending. `rate` is passages per second on average. What gateways
    still hold at `until` is sent then."""
    rng = random.Random(f"{seed} sends")
    gateways: dict[str, _Gateway] = {}
    held: list[Send] = []
    for passage in _passages(seed, people, rate, until):
        while held and held[0].at <= passage.at:
            yield heapq.heappop(held)
        gateway = gateways.setdefault(passage.gateway, _Gateway(f"{seed} {passage.gateway}"))
        for send in _sends_of(rng, passage, gateway, until):
            heapq.heappush(held, send)
    while held:
        yield heapq.heappop(held)


def calls(seed: int, people: Sequence[SamplePerson], rate: float, until: float) -> Iterator[Call]:
    """The calls of all app users in order, `rate` per second on average."""
    rng = random.Random(f"{seed} calls")
    for number, at in enumerate(_arrivals(rng, rate, until)):
        (action,) = rng.choices(list(_ACTIONS), list(_ACTIONS.values()))
        yield Call(number, at, rng.choice(people), action)


class _Gateway:
    """The outages of one gateway. It is asked for growing times only."""

    def __init__(self, seed: str) -> None:
        self._rng = random.Random(seed)
        self._back_at = 0.0
        self._draw_next()

    def _draw_next(self) -> None:
        self._offline_at = self._back_at + self._rng.expovariate(1 / _ONLINE)
        self._back_at = self._offline_at + self._rng.uniform(*_OFFLINE)

    def online_from(self, moment: float) -> float:
        """The moment, or the end of the outage that it is in."""
        while moment >= self._back_at:
            self._draw_next()
        return self._back_at if moment >= self._offline_at else moment


def _sends_of(rng: random.Random, passage: Passage, gateway: _Gateway, until: float) -> Iterator[Send]:
    online = gateway.online_from(passage.at)
    late = rng.uniform(*_DELAY) if rng.random() < _LATE else 0
    if online > passage.at:
        first = Send(min(online, until), passage.at, passage.number, passage, "backlog")
    elif late:
        first = Send(min(passage.at + late, until), passage.at, passage.number, passage, "late")
    else:
        first = Send(passage.at, passage.at, passage.number, passage, "prompt")
    yield first
    if rng.random() < _REPEATED:
        again = min(first.at + rng.uniform(*_REPEATED_AFTER), until)
        yield Send(again, passage.at, passage.number, passage, "repeated")


def _passages(seed: int, people: Sequence[SamplePerson], rate: float, until: float) -> Iterator[Passage]:
    """Entries and exits in order. Nobody enters twice without an exit."""
    rng = random.Random(f"{seed} passages")
    outside = list(people)
    exits: list[tuple[float, int, Passage]] = []
    number = 0
    for at in _arrivals(rng, rate / 2, until):
        while exits and exits[0][0] <= at:
            exit_at, _, entry = heapq.heappop(exits)
            outside.append(entry.person)
            yield Passage(number, exit_at, entry.gateway, entry.person, entry.by_plate, "exit")
            number += 1
        if not outside:
            continue
        person = outside.pop(rng.randrange(len(outside)))
        by_plate = rng.random() < _BY_PLATE
        gateway = f"{person.pc_code.lower()}-{'parking' if by_plate else 'door'}"
        entry = Passage(number, at, gateway, person, by_plate, "entry")
        heapq.heappush(exits, (at + _stay(rng), number, entry))
        yield entry
        number += 1


def _stay(rng: random.Random) -> float:
    shortest, longest = _STAY
    return min(longest, shortest + rng.expovariate(1 / (MEAN_STAY - shortest)))


def _arrivals(rng: random.Random, rate: float, until: float) -> Iterator[float]:
    """Random moments, `rate` per second on average over a day, more in busy hours (Lewis and Shedler's thinning)."""
    moment = 0.0
    while True:
        moment += rng.expovariate(rate * _BUSIEST / _AVERAGE)
        if moment >= until:
            return
        if rng.random() * _BUSIEST < _HOURS[int(START_HOUR + moment / HOUR) % 24]:
            yield moment
