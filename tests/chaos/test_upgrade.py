"""The upgrade from release 0.1.0: the database is at its last migration, and the inbox has answers of requests whose
offsets are not committed."""

import json
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest
import pytest_asyncio
import sqlalchemy as sa
from alembic import command
from sqlalchemy.exc import IntegrityError

from agents.catalogue import CATALOGUE
from agents.engine.decode import Decoder, ValidRequest
from agents.engine.schema_lookup import SchemaLookup
from storage import migrate
from tests.support.servers import KafkaAndPostgres, Servers
from tests.support.stack import WIRE, Stack, bare_stack_on, eventually
from topics import admin, names
from topics.envelope import JSON, Headers, RequestHeaders

LAST_OF_0_1_0 = "0009"
TOPIC = names.requests("optins")
ANSWER: dict[str, Any] = {
    "errors": [{"code": "of_0_1_0", "type": "conflict", "field": None, "message": "An answer of 0.1.0."}]
}
INSERT_ANSWER = sa.text(
    "insert into inbox (request_id, operation, fingerprint, status, body, received_at)"
    " values (:request_id, 'legalTexts.create', :fingerprint, 409, :body, now())"
)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def old(kafka_and_postgres: KafkaAndPostgres, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    kafka, postgres = kafka_and_postgres
    servers = Servers(kafka.bootstrap, postgres.url)
    async with bare_stack_on(servers, tmp_path_factory.mktemp("stack")) as stack:
        await admin.ensure(stack.kafka, CATALOGUE.topics(stack.kafka))
        async with stack.engine.begin() as conn:
            await conn.run_sync(_upgrade_to, LAST_OF_0_1_0)
        yield stack


def _upgrade_to(conn: sa.Connection, revision: str) -> None:
    config = migrate._config()
    config.attributes["connection"] = conn
    command.upgrade(config, revision)


def _value(legal_type: str) -> bytes:
    return json.dumps({"body": {"type": legal_type, "releaseDate": "2026-01-01T00:00:00Z"}}).encode()


def _headers(request_id: str, source: str) -> Headers:
    return RequestHeaders(request_id, "legalTexts.create", source, JSON).encode()


async def _store_answer_like_0_1_0(stack: Stack, request_id: str, value: bytes, headers: Headers) -> None:
    """Insert an inbox row in the form that release 0.1.0 writes."""
    record = SimpleNamespace(topic=TOPIC, partition=0, offset=0, key=None, value=value, timestamp=0.0, headers=headers)
    request = Decoder(CATALOGUE, WIRE, SchemaLookup(WIRE, stack.engine, None)).decode(record)
    assert isinstance(request, ValidRequest)
    row = {"request_id": request_id, "fingerprint": request.fingerprint, "body": json.dumps(ANSWER).encode()}
    async with stack.engine.begin() as conn:
        await conn.execute(INSERT_ANSWER, row)


async def test_an_upgrade_loses_no_request_and_applies_none_twice(old: Stack) -> None:
    answered = {
        "1": (_value("terms"), _headers("1", "crm/north")),
        "local/my-key": (_value("privacy"), _headers("local/my-key", "api/local")),
    }
    for request_id, (value, headers) in answered.items():
        await old.raw(TOPIC, value, headers, partition=0)
        await _store_answer_like_0_1_0(old, request_id, value, headers)
    without_id = [(name, value) for name, value in _headers("", "crm/old") if name != "ce_id"]
    metadata = await old.producer.send_and_wait(TOPIC, _value("loyalty"), headers=without_id, partition=0)
    await _store_answer_like_0_1_0(old, f"{TOPIC}:0:{metadata.offset}", _value("loyalty"), without_id)
    # Two requests without an answer. The first one has the id of an answered request of another sender.
    await old.raw(TOPIC, _value("wifi_terms"), _headers("1", "crm/south"), partition=0)
    await old.raw(TOPIC, _value("sms_us"), _headers("2", "crm/north"), partition=0)

    await migrate.upgrade(old.database)
    worker = old.worker()
    await eventually("a ready worker", worker.ready)

    results = [await old.result("legalTexts.create", "1", nth=number) for number in (1, 2)]
    statuses_by_source = {result.headers["ce_requestsource"]: result.value["status"] for result in results}
    assert statuses_by_source == {"crm/north": 409, "crm/south": 201}
    generated_id = f"{TOPIC}:0:{metadata.offset}@{metadata.timestamp}"
    for request_id in ("local/my-key", generated_id):
        value = (await old.result("legalTexts.create", request_id)).value
        assert value == {"status": 409, "body": ANSWER}
    assert (await old.result("legalTexts.create", "2")).value["status"] == 201
    rows = await old.rows("select type from legal_texts")
    assert sorted(row.type for row in rows) == ["sms_us", "wifi_terms"]
    assert worker.terminate() == 0


async def test_a_worker_of_0_1_0_cannot_store_an_answer_after_the_migration(old: Stack) -> None:
    """A worker of 0.1.0 that still runs rolls its batch back and retries it until the worker is replaced. It reads the
    violated constraint as an answer that another worker has stored."""
    with pytest.raises(IntegrityError, match="null value"):
        await _store_answer_like_0_1_0(old, "3", _value("terms"), _headers("3", "crm/north"))
