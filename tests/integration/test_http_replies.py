"""Replies on `visitor.replies` that do not answer the call that waits."""

import asyncio
from typing import Any

import httpx
import sqlalchemy as sa

from agents.catalogue import CATALOGUE
from tests.support import data
from tests.support.stack import WIRE, Record, Stack
from topics import json, names
from topics.envelope import AVRO, JSON, ReplyTo, RequestHeaders

CITY = "Lyon"
RESULT = json.write_result(200, {"forged": True})


def _visit(parker: dict[str, Any]) -> dict[str, Any]:
    return {"path": {"visitType": "entry"}, "body": {"barcode": parker["barcode"], "pcCode": parker["pcCode"]}}


def _own_headers(call: Record) -> list[tuple[str, bytes]]:
    """The headers of the reply for which a call waits."""
    return RequestHeaders(
        call.id,
        "visitors.update",
        call.headers["ce_source"],
        JSON,
        correlation=(("correlation-id", call.raw_headers["correlation-id"]),),
    ).reply_headers()


async def test_a_call_gets_the_answer_to_itself_whatever_else_arrives_with_its_correlation_id(
    stack: Stack, client: httpx.AsyncClient
) -> None:
    """Some correlation ids are known to others: who may read a request topic reads them there."""
    parker, other = await data.visitor_with_vehicle(client), await data.visitor_with_vehicle(client)
    visitor_id, path = parker["visitorId"], f"/visitors/{parker['visitorId']}"
    async with stack.engine.begin() as conn:
        await conn.execute(sa.text("select 1 from visitors where visitor_id = :id for update"), {"id": visitor_id})
        call = asyncio.create_task(client.patch(path, json={"addressCity": CITY}, headers={"Idempotency-Key": CITY}))
        sent = await stack.await_record(names.requests("visitors"), lambda record: record.key == visitor_id)
        partition, correlation = int(sent.headers["reply-to"]), sent.raw_headers["correlation-id"]
        assert len(bytes.fromhex(correlation.decode())) == 16
        stranger = RequestHeaders(
            f"stranger-{visitor_id}",
            "visits.create",
            "gateway/stranger",
            AVRO,
            ReplyTo(None, partition),
            (("correlation-id", correlation),),
        )
        await stack.raw(
            names.requests("visits"),
            WIRE.write_request(CATALOGUE.by_name["visits.create"], AVRO, _visit(other)),
            stranger.encode(),
        )
        await stack.result("visits.create", stranger.request_id)
        own = _own_headers(sent)
        for value, headers in (
            (RESULT, [("correlation-id", correlation)]),
            (RESULT, stranger._replace(request_id=sent.id).reply_headers()),
            (RESULT, [*own, ("revision", b"x")]),
            (json.write_result(999, None), own),
            (b'{"specversion": "1.0", "data": {}}', own),
            (b"\0\0\0\0\1Avro", own),
            (None, own),
        ):
            await stack.raw(names.REPLIES, value, headers, partition=partition, key=visitor_id)
        unanswered = not call.done()
    answer = await call
    assert (unanswered, answer.status_code, answer.content) == (True, 204, b"")
    assert "correlation-id" not in (await stack.result("visitors.update", sent.id)).headers
    assert (await client.get(path)).json()["data"]["addressCity"] == CITY
