"""Reads whose answers would be too large get 400 before they fill the memory of the worker. Answers up to the limit are
given, also several at once."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import httpx
import pytest_asyncio
import sqlalchemy as sa

from agents.families.articles.articles import ARTICLES
from storage.statements import written_columns
from storage.table import Table
from tests.support import data
from tests.support.answers import error_codes
from tests.support.memory import MemoryPeak
from tests.support.stack import Process, Stack, eventually
from topics import names

MEMORY_LIMIT = 256 * 2**20
CALLS = 4
"""At once, as many as a worker has connections for reads."""
TOO_MANY = 60_000
"""Records that are too many for one reply."""
PARTICIPANTS = 5_000
"""Of each challenge."""

_HISTORIES = """
    insert into challenge_histories (challenge_id, visitor_id, visitor_challenge_id, points, bonus_activated,
        total_points, participation_date, origin, action, revision)
    select challenge_id, visitor_id, visitor_challenge_id, 1, false, n, now(), 'test', 'increment', 1
    from visitor_challenges, generate_series(1, :count) as n where visitor_challenge_id = :participant
"""
_VEHICLES = """
    insert into vehicles (visitor_id, license_plate, plate_key, creation_date, update_date, revision)
    select :visitor, 'AB' || n, 'AB' || n, now(), now(), 1 from generate_series(1, :count) as n
"""
_VISITORS = """
    insert into visitors (visitor_id, first_name, first_name_key, last_name, email, email_key, barcode,
        country_code, account_type, origin_type, origin, creation_date, update_date, revision)
    select gen_random_uuid(), repeat('Many', 40), 'many', 'Quill', :mark || n, :mark || n, :mark || n, 'FR', 'full',
        'api', :mark, now(), now(), 1
    from generate_series(1, :count) as n
"""
_LONG_TEXTS = """
    update visitors set address_city = :text, address_street = :text, address_state = :text, address_zip_code = :text,
        billing_address = :text, billing_address2 = :text, billing_zip_code = :text, billing_city = :text
    where origin = :mark
"""
_PARTICIPANTS = """
    insert into visitor_challenges (visitor_id, challenge_id, points, total_entry_count, bonus_entry_count,
        reward_unlocked, reward_received, registered_date, creation_date, update_date, revision, precedence)
    select visitor_id, challenge_id, 1, 1, 0, false, false, now(), now(), now(), 1, -nextval('challenge_arrivals')
    from visitors, challenges where origin = 'ranked' and challenge_id = any(:challenges)
"""
_RANKED = "select visitor_id from visitors where origin = 'ranked' limit 1"


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def worker(own_stack: Stack) -> Process:
    process = own_stack.worker()
    await eventually("a ready worker", process.ready)
    return process


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def client(own_stack: Stack, worker: Process) -> AsyncIterator[httpx.AsyncClient]:
    # Large reads are answered one after the other, and test machines are shared.
    edge, url = own_stack.edge(VISITOR_HTTP_TIMEOUT_SECONDS="60")
    await eventually("a ready edge", edge.ready)
    async with httpx.AsyncClient(base_url=url, timeout=90) as client:
        yield client


def _copy(table: Table[Any]) -> str:
    """A statement that adds :count copies of each row."""
    columns = ", ".join(written_columns(table.sql))
    return (
        f"insert into {table.sql.name} ({columns}) select {columns} from {table.sql.name}, generate_series(1, :count)"
    )


async def _execute(stack: Stack, statement: str, **parameters: Any) -> None:
    async with stack.engine.begin() as conn:
        await conn.execute(sa.text(statement), parameters)


async def _participant(client: httpx.AsyncClient) -> dict[str, Any]:
    """A participant of a challenge of its own."""
    center = await data.create(client, "/centers", data.center())
    challenge = await data.create(client, "/challenges", data.challenge(center["pcCode"]))
    visitor = await data.create(client, "/visitors", data.visitor(center["pcCode"]))
    path = f"/visitors/{visitor['visitorId']}/visitorChallenges"
    return await data.create(client, path, {"challengeId": challenge["challengeId"]})


async def _answers(worker: Process, client: httpx.AsyncClient, path: str, **query: Any) -> Sequence[httpx.Response]:
    """The answers to `CALLS` calls at once. Fails if the worker needs too much memory for them."""
    memory = MemoryPeak(worker.child.pid)
    async with memory.watched():
        answers = await asyncio.gather(*(client.get(path, params=query) for _ in range(CALLS)))
    assert memory.peak < MEMORY_LIMIT
    return answers


def _errors(answers: Sequence[httpx.Response]) -> list[Any]:
    return [(answer.status_code, *error_codes(answer)) for answer in answers]


async def test_histories_up_to_the_limit_of_a_reply_are_all_answered(
    own_stack: Stack, worker: Process, client: httpx.AsyncClient
) -> None:
    participant = await _participant(client)
    count = 30_000
    await _execute(own_stack, _HISTORIES, count=count, participant=participant["visitorChallengeId"])
    answers = await _answers(worker, client, f"/visitors/{participant['visitorId']}/challengeHistories")
    assert {answer.status_code for answer in answers} == {200}
    assert names.REPLY_LIMIT * 0.8 < len(answers[0].content) < names.REPLY_LIMIT
    assert [row["totalPoints"] for row in answers[0].json()] == list(range(1, count + 1))


async def test_too_many_histories_are_refused(own_stack: Stack, worker: Process, client: httpx.AsyncClient) -> None:
    participant = await _participant(client)
    await _execute(own_stack, _HISTORIES, count=TOO_MANY, participant=participant["visitorChallengeId"])
    answers = await _answers(worker, client, f"/visitors/{participant['visitorId']}/challengeHistories")
    assert _errors(answers) == CALLS * [(400, (None, "reply_too_large"))]


async def test_details_with_too_many_records_are_refused_and_deleted_records_do_not_count(
    own_stack: Stack, worker: Process, client: httpx.AsyncClient
) -> None:
    center = await data.create(client, "/centers", data.center())
    visitor = await data.create(client, "/visitors", data.visitor(center["pcCode"]))
    query = {"visitorId": visitor["visitorId"], "limit": 500}
    await _execute(own_stack, _VEHICLES, count=TOO_MANY, visitor=visitor["visitorId"])
    answers = await _answers(worker, client, "/visitors/details", **query)
    assert _errors(answers) == CALLS * [(400, ("limit", "reply_too_large"))]

    await _execute(
        own_stack,
        "update vehicles set deletion_date = now() where visitor_id = :visitor and license_plate <> 'AB7'",
        visitor=visitor["visitorId"],
    )
    answers = await _answers(worker, client, "/visitors/details", **query)
    vehicles = [answer.json()["data"][0]["vehicles"] for answer in answers]
    assert [[vehicle["licensePlate"] for vehicle in each] for each in vehicles] == CALLS * [["AB7"]]


async def test_pages_with_texts_that_are_too_long_are_refused_unless_the_caller_leaves_them_out(
    own_stack: Stack, worker: Process, client: httpx.AsyncClient
) -> None:
    article = {"genericName": "long", "mainImageUrl": "https://example.com", "publishDate": "2026-01-01T00:00:00Z"}
    texts = [{"localeCode": code, "value": "x" * 200_000} for code in ("fr-FR", "fr-BE", "fr-CH", "fr-CA", "fr-LU")]
    await data.create(client, "/articles", {**article, "status": "draft", "title": texts})
    await _execute(own_stack, _copy(ARTICLES), count=50)
    await _check_page(worker, client, "/articles", limit=50, few=5, key="articleId")


async def test_pages_of_many_records_whose_texts_are_too_long_together_are_refused(
    own_stack: Stack, worker: Process, client: httpx.AsyncClient
) -> None:
    await _execute(own_stack, _VISITORS, count=500, mark="long")
    await _execute(own_stack, _LONG_TEXTS, mark="long", text="\U0001f697" * 1_000)
    await _check_page(worker, client, "/visitors", limit=490, few=100, key="visitorId")


async def _check_page(worker: Process, client: httpx.AsyncClient, path: str, *, limit: int, few: int, key: str) -> None:
    """A page with `limit` records is too large, one with a few is not, nor one with their keys only."""
    answers = await _answers(worker, client, path, limit=limit)
    assert _errors(answers) == CALLS * [(400, ("limit", "reply_too_large"))]
    answers = await _answers(worker, client, path, limit=few)
    assert [len(answer.json()["data"]) for answer in answers] == CALLS * [few]
    answers = await _answers(worker, client, path, limit=limit, fields=key)
    assert {len(record) for answer in answers for record in answer.json()["data"]} == {1}
    assert [len(answer.json()["data"]) for answer in answers] == CALLS * [limit]


async def test_rankings_that_are_too_large_are_refused_unless_the_caller_leaves_out_the_participants(
    own_stack: Stack, worker: Process, client: httpx.AsyncClient
) -> None:
    center = await data.create(client, "/centers", data.center())
    challenge = data.challenge(center["pcCode"], winnerNumber=PARTICIPANTS)
    challenges = [(await data.create(client, "/challenges", challenge))["challengeId"] for _ in range(12)]
    await _execute(own_stack, _VISITORS, count=PARTICIPANTS, mark="ranked")
    await _execute(own_stack, _PARTICIPANTS, challenges=challenges)
    path = f"/visitors/{(await own_stack.rows(_RANKED))[0].visitor_id}/rankings"

    answers = await _answers(worker, client, path)
    assert _errors(answers) == CALLS * [(400, ("limit", "reply_too_large"))]

    answers = await _answers(worker, client, path, limit=5)
    assert {answer.status_code for answer in answers} == {200}
    assert [len(ranking["topRanking"]) for ranking in answers[0].json()["data"]] == 5 * [PARTICIPANTS]

    answers = await _answers(worker, client, path, fields="visitorRankingPosition,canLogPoints")
    assert {answer.status_code for answer in answers} == {200}
    assert [set(ranking) for ranking in answers[0].json()["data"]] == 12 * [{"visitorRankingPosition", "canLogPoints"}]
