"""The sample data of `visitor dev` is created once and completely, and every GET operation answers with data."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import httpx
import pytest
import pytest_asyncio

from agents.catalogue import CATALOGUE
from runtime.dev import sample
from tests.support.scene import FACTS, Parts, send
from tests.support.stack import Stack, eventually
from topics import names

QUERIES = sorted(name for name in FACTS if CATALOGUE.by_name[name].is_query)
LISTED_AT = {
    "serviceId": "/services?pcCode={pcCode}",
    "centerCompanyId": "/centers/{pcCode}/companies",
    "legalTextId": "/legalTexts?legalType=commercial_email&sort=-version",
    "challengeId": "/challenges?pcCode={pcCode}",
    "articleId": "/articles",
    **{
        name: f"/visitors/{{visitorId}}/{kind}"
        for name, kind in {
            "bookmarkId": "bookmarks", "deviceId": "devices", "cardId": "creditCards", "vehicleId": "vehicles",
            "checkinId": "checkins", "parkingId": "parkings", "parkingHistoryId": "parkingHistories",
            "rewardId": "rewards", "interestId": "interests", "optinId": "optins",
        }.items()
    },
}  # fmt: skip
"""By path parameter, the list that contains its value."""

PartsOf = Callable[[str], Awaitable[Parts]]


@pytest.fixture(scope="module", autouse=True)
def three_people() -> Iterator[None]:
    """The sample data with three people instead of all, which takes a quarter of the time."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sample, "PEOPLE", sample.PEOPLE[:3])
        yield


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def stack(own_stack: Stack) -> Stack:
    """An installation without the sample data. The tests of the docs create it in the shared one."""
    worker = own_stack.worker()
    edge, own_stack.url = own_stack.edge()
    await eventually("a ready worker", worker.ready)
    await eventually("a ready edge", edge.ready)
    return own_stack


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def client(stack: Stack) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=stack.url, timeout=30) as http_client:
        yield http_client


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def parts_of(stack: Stack, client: httpx.AsyncClient) -> PartsOf:
    """Returns the parts of a query about the first person of the sample."""
    await sample.ensure(stack.url)
    person = (await sample.find(stack.url))[0]
    external_id = f"card of {person.barcode}"
    values: dict[str, Any] = {
        "visitorId": person.visitor_id, "pcCode": person.pc_code, "localeCode": "fr-FR", "companyId": "1",
        "externalType": "designa", "externalId": external_id, "timezone": "Europe/Paris",
    }  # fmt: skip

    async def value_of(name: str) -> Any:
        if name not in values:
            row = (await client.get(LISTED_AT[name].format(**values))).json()["data"][0]
            values[name] = row["id" if name == "legalTextId" else name]
        return values[name]

    async def parts(operation: str) -> Parts:
        path = {fact["name"]: await value_of(fact["name"]) for fact in FACTS[operation]["path_params"]}
        query = {fact["name"]: await value_of(fact["name"]) for fact in FACTS[operation]["query"] if fact["required"]}
        if operation == "visits.list":
            query["visitorId"] = person.visitor_id
        return {"path": path, "query": query}

    return parts


async def test_the_next_start_completes_an_interrupted_one(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    async def interrupted(*_: object) -> None:
        raise asyncio.CancelledError

    with monkeypatch.context() as patched:
        patched.setattr(sample, "_create_parking", interrupted)
        with pytest.raises(asyncio.CancelledError):
            await sample.ensure(stack.url)
    before = {table: await _count(stack, table) for table in ("visitors", "legal_texts", "parkings", "articles")}
    await sample.ensure(stack.url)
    added = {table: await _count(stack, table) - count for table, count in before.items()}
    assert added == {"visitors": 0, "legal_texts": 0, "parkings": len(sample.PEOPLE), "articles": 1}
    assert len(await sample.find(stack.url)) == len(sample.PEOPLE)
    requests = await stack.count(names.requests("visitors"))
    await sample.ensure(stack.url)
    assert await stack.count(names.requests("visitors")) == requests


async def _count(stack: Stack, table: str) -> int:
    return int((await stack.rows(f"select count(*) from {table}"))[0][0])


@pytest.mark.parametrize("operation", QUERIES)
async def test_every_query_answers_with_data(client: httpx.AsyncClient, parts_of: PartsOf, operation: str) -> None:
    answer = await send(client, CATALOGUE.by_name[operation], await parts_of(operation))
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert body if isinstance(body, list) else body["data"]


@pytest.mark.usefixtures("parts_of")
async def test_a_deleted_vehicle_of_the_sample_is_not_created_again(stack: Stack, client: httpx.AsyncClient) -> None:
    people = await sample.find(stack.url)
    vehicles = f"/visitors/{people[-1].visitor_id}/vehicles"
    vehicle_id = (await client.get(vehicles)).json()["data"][0]["vehicleId"]
    assert (await client.delete(f"{vehicles}/{vehicle_id}")).status_code == 204
    await sample.ensure(stack.url)
    assert await sample.find(stack.url) == people[:-1]
