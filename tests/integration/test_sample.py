"""The sample data of `visitor dev` is created once and completely, and every GET operation answers with data."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
import pytest_asyncio

from agents.catalogue import CATALOGUE
from runtime.dev import sample
from tests.support.scene import FACTS, Parts, send
from tests.support.stack import Stack, eventually
from topics import names

QUERIES = sorted(name for name in FACTS if CATALOGUE.by_name[name].is_query)
PartsOf = Callable[[str], Awaitable[Parts]]


@pytest.fixture(scope="module", autouse=True)
def three_people() -> Iterator[None]:
    """The sample data with three people instead of all, which takes a quarter of the time."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sample, "PEOPLE", sample.PEOPLE[:3])
        yield


@pytest.fixture(scope="module")
def examples_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the edge looks for the ids of the sample data. The file does not exist at first, as in `visitor dev`."""
    return tmp_path_factory.mktemp("examples") / "examples.json"


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def stack(own_stack: Stack, examples_file: Path) -> Stack:
    """An installation without the sample data. The tests of the docs create it in the shared one."""
    worker = own_stack.worker()
    edge, own_stack.url = own_stack.edge(VISITOR_HTTP_EXAMPLES=str(examples_file))
    await eventually("a ready worker", worker.ready)
    await eventually("a ready edge", edge.ready)
    return own_stack


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def client(stack: Stack) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=stack.url, timeout=30) as http_client:
        yield http_client


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def parts_of(stack: Stack) -> PartsOf:
    """Returns the parts of a query about the first person of the sample."""
    await sample.ensure(stack.url)
    values: dict[str, Any] = {
        "localeCode": "fr-FR", "companyId": "1", "externalType": "designa", "timezone": "Europe/Paris",
        **await sample.examples(stack.url),
    }  # fmt: skip

    async def parts(operation: str) -> Parts:
        path = {fact["name"]: values[fact["name"]] for fact in FACTS[operation]["path_params"]}
        query = {fact["name"]: values[fact["name"]] for fact in FACTS[operation]["query"] if fact["required"]}
        if operation == "visits.list":
            query["visitorId"] = values["visitorId"]
        return {"path": path, "query": query}

    return parts


async def test_the_next_start_completes_an_interrupted_one(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    async def interrupted(*_: object) -> None:
        raise asyncio.CancelledError

    with monkeypatch.context() as patched:
        patched.setattr(sample, "_create_parking", interrupted)
        with pytest.raises(asyncio.CancelledError):
            await sample.ensure(stack.url)
    running = [task for task in asyncio.all_tasks() if "_create_details" in repr(task)]
    assert running == [], "calls go on with a closed client"
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
async def test_try_it_out_succeeds_for_every_operation(
    stack: Stack, client: httpx.AsyncClient, examples_file: Path
) -> None:
    ids = await sample.examples(stack.url)
    await asyncio.to_thread(examples_file.write_text, json.dumps(ids))
    document = (await client.get("/openapi.json")).json()
    answers = {
        operation["operationId"]: await _try_out(client, method, path, operation)
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
    }
    assert answers.keys() == FACTS.keys()
    assert [f"{name}: {answer.text}" for name, answer in answers.items() if not answer.is_success] == []


async def _try_out(client: httpx.AsyncClient, method: str, path: str, operation: dict[str, Any]) -> httpx.Response:
    """The call that Swagger UI makes of the examples. It fills in the defaults of parameters too."""
    query: dict[str, Any] = {}
    for parameter in operation["parameters"]:
        value = parameter.get("example", parameter.get("schema", {}).get("default"))
        if parameter.get("in") == "path":
            path = path.replace(f"{{{parameter['name']}}}", quote(str(value), safe=""))
        elif value is not None:
            query[parameter["name"]] = str(value).lower() if isinstance(value, bool) else value
    body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("example")
    return await client.request(method, path, params=query, json=body)


@pytest.mark.usefixtures("parts_of")
async def test_a_deleted_vehicle_of_the_sample_is_not_created_again(stack: Stack, client: httpx.AsyncClient) -> None:
    people = await sample.find(stack.url)
    vehicles = f"/visitors/{people[-1].visitor_id}/vehicles"
    vehicle_id = (await client.get(vehicles)).json()["data"][0]["vehicleId"]
    assert (await client.delete(f"{vehicles}/{vehicle_id}")).status_code == 204
    await sample.ensure(stack.url)
    assert await sample.find(stack.url) == people[:-1]
