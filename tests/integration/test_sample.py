"""The sample data of `visitor dev`: every GET of the docs page answers with something."""

from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest
import pytest_asyncio

from agents.catalogue import CATALOGUE
from runtime import sample
from tests.support.scene import FACTS, Parts, send
from tests.support.stack import Stack

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


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def asking(stack: Stack, client: httpx.AsyncClient) -> Asking:
    """The parts of a read about the first person of the sample."""
    person = (await sample.create(stack.url))[0]
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


@pytest.mark.parametrize("operation", READS)
async def test_every_read_answers_with_data(client: httpx.AsyncClient, asking: Asking, operation: str) -> None:
    answer = await send(client, CATALOGUE.by_name[operation], await asking(operation))
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert body if isinstance(body, list) else body["data"]
