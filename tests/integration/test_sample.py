"""The sample data of `visitor dev`: made once and completely; every GET of the docs page answers with something."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import httpx
import pytest
import pytest_asyncio

from agents.catalogue import CATALOGUE
from runtime.dev import sample
from tests.support.scene import FACTS, Parts, send
from tests.support.stack import Stack
from topics import names

READS = sorted(name for name in FACTS if CATALOGUE.by_name[name].is_query)
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
"""Where the id of what a path names is found."""

Asking = Callable[[str], Awaitable[Parts]]


@pytest.fixture(scope="module", autouse=True)
def few_people() -> Iterator[None]:
    """The same with three people, which takes a quarter of the time."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sample, "PEOPLE", sample.PEOPLE[:3])
        yield


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def asking(stack: Stack, client: httpx.AsyncClient) -> Asking:
    """The parts of a read about the first person of the sample."""
    await sample.ensure(stack.url)
    person = (await sample.find(stack.url))[0]
    external_id = f"card of {person.barcode}"
    known: dict[str, Any] = {
        "visitorId": person.visitor_id, "pcCode": person.pc_code, "localeCode": "fr-FR", "companyId": "1",
        "externalType": "designa", "externalId": external_id, "timezone": "Europe/Paris",
    }  # fmt: skip

    async def place(name: str) -> Any:
        if name not in known:
            row = (await client.get(LISTED_AT[name].format(**known))).json()["data"][0]
            known[name] = row["id" if name == "legalTextId" else name]
        return known[name]

    async def parts(operation: str) -> Parts:
        path = {fact["name"]: await place(fact["name"]) for fact in FACTS[operation]["path_params"]}
        query = {fact["name"]: await place(fact["name"]) for fact in FACTS[operation]["query"] if fact["required"]}
        whose = {"visitorId": person.visitor_id} if operation == "visits.list" else {}
        return {"path": path, "query": query | whose}

    return parts


async def test_a_start_that_was_interrupted_is_completed_by_the_next(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def interrupted(*_: object) -> None:
        raise asyncio.CancelledError

    with monkeypatch.context() as patched:
        patched.setattr(sample, "_parking", interrupted)
        with pytest.raises(asyncio.CancelledError):
            await sample.ensure(stack.url)
    half = {table: await _count(stack, table) for table in ("visitors", "legal_texts", "parkings", "articles")}
    await sample.ensure(stack.url)
    whole = {table: await _count(stack, table) for table in half}
    added = {table: whole[table] - half[table] for table in half}
    assert added == {"visitors": 0, "legal_texts": 0, "parkings": len(sample.PEOPLE), "articles": 1}
    assert len(await sample.find(stack.url)) == len(sample.PEOPLE)
    requests = await stack.count(names.requests("visitors"))
    await sample.ensure(stack.url)
    assert await stack.count(names.requests("visitors")) == requests


async def _count(stack: Stack, table: str) -> int:
    return int((await stack.rows(f"select count(*) from {table}"))[0][0])


@pytest.mark.parametrize("operation", READS)
async def test_every_read_answers_with_data(client: httpx.AsyncClient, asking: Asking, operation: str) -> None:
    answer = await send(client, CATALOGUE.by_name[operation], await asking(operation))
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert body if isinstance(body, list) else body["data"]


async def test_people_of_the_sample_may_be_deleted(stack: Stack, client: httpx.AsyncClient, asking: Asking) -> None:
    known = await sample.find(stack.url)
    mine = (await client.get(f"/visitors/{known[-1].visitor_id}/vehicles")).json()["data"][0]["vehicleId"]
    assert (await client.delete(f"/visitors/{known[-1].visitor_id}/vehicles/{mine}")).status_code == 204
    await sample.ensure(stack.url)
    assert await sample.find(stack.url) == known[:-1]
