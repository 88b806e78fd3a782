"""The schema registry under /registry, whose API is Confluent's."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import pytest_asyncio
import sqlalchemy as sa

from edge import keys
from storage import schema_store
from tests.support.stack import WIRE, Stack, eventually
from topics import avro, names, releases
from topics.names import VALUE_LIMIT

REQUEST = WIRE.requests["visits.create"]
REQUEST_ID = avro.schema_id(REQUEST)
SUBJECT = f"{names.requests('visits')}-visitor.VisitsCreateRequest"
RELEASED = next(each for each in releases.released() if (each.kind, each.name) == ("requests", "visits.create"))


@pytest_asyncio.fixture(loop_scope="session")
async def registry(stack: Stack) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=f"{stack.url}/registry", timeout=30) as client:
        yield client


async def _json(registry: httpx.AsyncClient, path: str) -> Any:
    response = await registry.get(path)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/vnd.schemaregistry.v1+json"
    return response.json()


async def test_every_schema_of_the_service_is_found_by_its_id(registry: httpx.AsyncClient) -> None:
    for schema in WIRE.changes.values():
        assert json.loads((await _json(registry, f"/schemas/ids/{avro.schema_id(schema)}"))["schema"]) == schema


async def test_the_schemas_of_release_0_1_0_are_found_by_their_ids(registry: httpx.AsyncClient) -> None:
    assert RELEASED.id != REQUEST_ID
    assert json.loads((await _json(registry, f"/schemas/ids/{RELEASED.id}"))["schema"]) == RELEASED.schema


async def test_the_schema_of_an_id_can_be_cached_for_ever(registry: httpx.AsyncClient) -> None:
    response = await registry.get(f"/schemas/ids/{REQUEST_ID}")
    assert response.headers["cache-control"] == "private, max-age=31536000, immutable"
    assert "immutable" not in (await registry.get("/subjects")).headers.get("cache-control", "")


async def test_a_subject_has_the_versions_of_all_releases(registry: httpx.AsyncClient) -> None:
    assert SUBJECT in await _json(registry, "/subjects")
    assert await _json(registry, f"/subjects/{SUBJECT}/versions") == [1, 2]
    first, latest = [await _json(registry, f"/subjects/{SUBJECT}/versions/{version}") for version in (1, "latest")]
    assert (first["id"], first["version"], first["subject"]) == (RELEASED.id, 1, SUBJECT)
    assert (latest["id"], latest["version"]) == (REQUEST_ID, 2)
    assert json.loads(latest["schema"]) == REQUEST
    assert await _json(registry, f"/subjects/{SUBJECT}/versions/2/schema") == REQUEST


@pytest.mark.parametrize("path", ["", "/versions"])
async def test_a_serializer_finds_the_id_of_its_schema(registry: httpx.AsyncClient, path: str) -> None:
    """Clients send a schema as they render it: in another order, with documentation and properties of their own."""
    rendered = dict(reversed(REQUEST.items())) | {"doc": "generated", "avro.java.string": "String"}
    for subject in (SUBJECT, f"{names.requests('visits')}-value", "visitor.VisitsCreateRequest"):
        response = await registry.post(f"/subjects/{subject}{path}", json={"schema": json.dumps(rendered)})
        assert (response.status_code, response.json()["id"]) == (200, REQUEST_ID)


async def test_a_schema_with_another_logical_type_is_not_found(registry: httpx.AsyncClient) -> None:
    in_milliseconds = json.dumps(REQUEST).replace("timestamp-micros", "timestamp-millis")
    assert in_milliseconds != json.dumps(REQUEST)
    looked_up = await registry.post(f"/subjects/{SUBJECT}", json={"schema": in_milliseconds})
    assert (looked_up.status_code, looked_up.json()["error_code"]) == (404, 40403)
    registered = await registry.post(f"/subjects/{SUBJECT}/versions", json={"schema": in_milliseconds})
    assert (registered.status_code, registered.json()["error_code"]) == (422, 42205)


async def test_a_change_topic_has_one_subject_by_its_name_a_request_topic_has_none(registry: httpx.AsyncClient) -> None:
    changes, requests = names.changes("optins", "optin"), names.requests("optins")
    latest = await _json(registry, f"/subjects/{changes}-value/versions/latest")
    assert json.loads(latest["schema"]) == WIRE.changes["optin"]
    response = await registry.get(f"/subjects/{requests}-value/versions/latest")
    assert (response.status_code, response.json()["error_code"]) == (404, 40401)


@pytest.mark.parametrize("kind", ["v2/ids/globalIds", "v3/ids/contentIds", "v3/ids/globalIds"])
async def test_apicurios_clients_find_a_schema(registry: httpx.AsyncClient, kind: str) -> None:
    path = f"/apis/registry/{kind}/{REQUEST_ID}"
    assert await _json(registry, path) == REQUEST
    assert await _json(registry, f"{path}/references") == []
    assert (await registry.get(f"/apis/registry/{kind}/1")).status_code == 404


async def test_apicurios_serializer_finds_the_newest_version_of_a_subject(registry: httpx.AsyncClient) -> None:
    artifact = await _json(registry, f"/apis/registry/v3/groups/default/artifacts/{SUBJECT}/versions/branch%3Dlatest")
    assert (artifact["artifactId"], artifact["globalId"], artifact["contentId"]) == (SUBJECT, REQUEST_ID, REQUEST_ID)


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/schemas/ids/1", 404, 40403),
        ("/schemas/ids/x", 404, 40403),
        ("/subjects/nothing/versions", 404, 40401),
        (f"/subjects/{SUBJECT}/versions/3", 404, 40402),
        (f"/subjects/{SUBJECT}/versions/first", 422, 42202),
    ],
)
async def test_an_error_has_the_code_of_confluents_api(
    registry: httpx.AsyncClient, path: str, status: int, code: int
) -> None:
    response = await registry.get(path)
    assert (response.status_code, response.json()["error_code"]) == (status, code)


NESTED = "[" * 20_000


@pytest.mark.parametrize(
    ("content", "status", "code"),
    [
        (b" " * (VALUE_LIMIT + 1), 413, 41301),
        (b"{", 422, 42201),
        (NESTED.encode(), 422, 42201),
        (json.dumps({"schema": NESTED + "]" * len(NESTED)}).encode(), 422, 42201),
        (json.dumps({"schema": '{"type":"array","items":' * 1_800 + '"int"' + "}" * 1_800}).encode(), 422, 42201),
    ],
    ids=["too-large", "no-json", "nested", "nested-json", "nested-schema"],
)
async def test_a_body_that_is_no_schema_is_refused(
    registry: httpx.AsyncClient, content: bytes, status: int, code: int
) -> None:
    response = await registry.post(f"/subjects/{SUBJECT}", content=content)
    assert (response.status_code, response.json()["error_code"]) == (status, code)


async def test_the_registry_describes_itself(registry: httpx.AsyncClient) -> None:
    assert await _json(registry, "/schemas/types") == ["AVRO"]
    assert await _json(registry, f"/config/{SUBJECT}") == {"compatibilityLevel": "FULL_TRANSITIVE"}
    assert await _json(registry, "/mode") == {"mode": "READONLY"}
    versions = await _json(registry, f"/schemas/ids/{REQUEST_ID}/versions")
    assert {"subject": SUBJECT, "version": 2} in versions


async def test_a_schema_that_a_newer_release_adds_appears(stack: Stack, registry: httpx.AsyncClient) -> None:
    newer = REQUEST | {"fields": [*REQUEST["fields"], {"name": "lane", "type": ["null", "string"], "default": None}]}
    entry = schema_store.Entry(avro.schema_id(newer), avro.full_name(newer), avro.schema_text(newer))
    async with stack.engine.begin() as conn:
        await schema_store.add(conn, [entry])
    try:

        async def appears() -> bool:
            return (await registry.get(f"/schemas/ids/{entry.id}")).status_code == 200

        await eventually("the schema is found", appears)
        assert await _json(registry, f"/subjects/{SUBJECT}/versions") == [1, 2, 3]
    finally:
        async with stack.engine.begin() as conn:
            await conn.execute(sa.delete(schema_store.SCHEMAS).where(schema_store.SCHEMAS.c.id == entry.id))


async def test_the_registry_needs_a_key_if_keys_are_configured(stack: Stack, tmp_path: Any) -> None:
    secret = keys.new_key()
    key_file = tmp_path / "keys.toml"
    key_file.write_text(f'[[keys]]\nname = "crm"\nsha256 = "{keys.digest(secret)}"\nscopes = ["optins:read"]\n')
    edge, url = stack.edge(VISITOR_HTTP_KEYS=str(key_file))
    try:
        await eventually("the edge is ready", edge.ready)
        path = f"{url}/registry/schemas/ids/{REQUEST_ID}"
        async with httpx.AsyncClient(timeout=30) as client:
            refused = await client.get(path)
            assert (refused.status_code, refused.json()["error_code"]) == (401, 40101)
            assert refused.headers["www-authenticate"].startswith("Basic")
            assert (await client.get(path, auth=("crm", "wrong"))).status_code == 401
            assert (await client.get(path, auth=("crm", secret))).status_code == 200
            bearer = {"Authorization": f"Bearer {secret}"}
            assert (await client.get(path, headers=bearer)).status_code == 200
    finally:
        await asyncio.to_thread(edge.terminate)
