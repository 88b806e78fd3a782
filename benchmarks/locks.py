"""Calls over HTTP while another session has locked some of the visitors."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial

import aiohttp

from benchmarks import http
from benchmarks.http import Load
from benchmarks.installation import Installation
from benchmarks.population import Person, Population
from benchmarks.results import Result, Row, alternate, at_least

LOCKS = Row("http.locks", "HTTP visits of 10 visitors, 2 others are locked", "no locks", "calls/s", at_least(0.8))
ROWS = (LOCKS,)

_SECONDS = 10.0
_LOCKED, _OTHERS = 2, 10


async def run(installation: Installation, rows: Sequence[Row], rounds: int) -> AsyncIterator[Result]:
    async with installation.ready_worker(), installation.edge() as edge:
        free = partial(_rate_of_others, installation, edge)
        values = await alternate({"locked": partial(_rate_while_locked, installation, edge), "free": free}, rounds)
        yield Result(LOCKS, values["locked"], values["free"])


async def _rate_while_locked(installation: Installation, edge: str) -> float:
    visitors = [person.visitor_id for person in _locked_people(installation)]
    async with installation.database.transaction():
        await installation.database.execute(
            "select from visitors where visitor_id = any ($1::text[]::uuid[]) for update", visitors
        )
        return await _rate_of_others(installation, edge)


async def _rate_of_others(installation: Installation, edge: str) -> float:
    """The calls per second of the visitors that are never locked. Calls of the locked ones arrive at the same time."""
    population = installation.population
    others = replace(population, people=population.people[_LOCKED : _LOCKED + _OTHERS])
    async with _calls_of(_locked_people(installation), population, edge):
        return await http.rate(edge, others, Load(http.visit, _OTHERS, _SECONDS))


def _locked_people(installation: Installation) -> Sequence[Person]:
    return installation.population.people[:_LOCKED]


@asynccontextmanager
async def _calls_of(people: Sequence[Person], population: Population, edge: str) -> AsyncIterator[None]:
    """Each of these people enters and leaves until the block ends. The answers are not checked."""

    async def call(session: aiohttp.ClientSession, person: Person) -> None:
        while True:
            method, path, arguments = http.visit(population, person)
            async with session.request(method, path, **arguments) as response:
                await response.read()

    async with aiohttp.ClientSession(edge) as session:
        callers = [asyncio.create_task(call(session, person)) for person in people]
        try:
            yield
        finally:
            for caller in callers:
                caller.cancel()
            await asyncio.gather(*callers, return_exceptions=True)
