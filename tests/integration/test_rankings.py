"""Rankings: their rules, a comparison with a small model, and their cost with 100,000 participants."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4
from zoneinfo import ZoneInfo

import httpx
import pytest
import pytest_asyncio
import sqlalchemy as sa
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from agents.families.points import ranking_queries, rankings, standings
from agents.families.points.challenges import ParticipantQuery
from agents.families.points.visitor_challenge_table import VISITOR_CHALLENGES
from schemas.types import INT64
from storage import lists
from tests.support import data
from tests.support.answers import error_codes
from tests.support.plans import plan_of
from tests.support.stack import Stack, eventually
from tests.support.transaction import handler_tx
from topics import names

LONG_AGO, FAR_OFF = "2001-02-03T04:05:06Z", "2101-02-03T04:05:06Z"
ADD = "visitorChallenges.addPoints"
JsonObject = dict[str, Any]


async def _challenge(client: httpx.AsyncClient, **fields: Any) -> JsonObject:
    center = await data.create(client, "/centers", data.center())
    return await data.create(client, "/challenges", data.challenge(center["pcCode"], **fields))


async def _join(client: httpx.AsyncClient, challenge: JsonObject, points: int = 0, **fields: Any) -> JsonObject:
    """A new participant of a challenge with these points, and its `path`."""
    visitor = await data.create(client, "/visitors", data.visitor(challenge["pcCode"], **fields))
    path = f"/visitors/{visitor['visitorId']}/visitorChallenges"
    created = await data.create(client, path, {"challengeId": challenge["challengeId"]})
    participant = {**created, "path": f"{path}/{created['visitorChallengeId']}"}
    if points:
        await _add(client, participant, points)
    return participant


async def _add(client: httpx.AsyncClient, participant: JsonObject, points: int) -> None:
    answer = await client.post(f"{participant['path']}/points", json={"points": points})
    assert answer.status_code == 204, answer.text


async def _patch(client: httpx.AsyncClient, path: str, **fields: Any) -> None:
    answer = await client.patch(path, json=fields)
    assert answer.status_code == 204, answer.text


async def _rankings(client: httpx.AsyncClient, visitor_id: str, **query: Any) -> list[JsonObject]:
    answer = await client.get(f"/visitors/{visitor_id}/rankings", params=query)
    assert answer.status_code == 200, answer.text
    rows: list[JsonObject] = answer.json()["data"]
    return rows


async def _ranking(client: httpx.AsyncClient, participant: JsonObject) -> JsonObject:
    return (await _rankings(client, participant["visitorId"]))[0]


def _standings(entries: Sequence[JsonObject]) -> list[tuple[int, str, str]]:
    return [(entry["position"], entry["name"], entry["points"]) for entry in entries]


# One ranking


async def test_positions_start_at_1_and_equal_points_share_one(client: httpx.AsyncClient) -> None:
    challenge = await _challenge(client, winnerNumber=4)
    participants = [await _join(client, challenge, points, firstName=f"P{points}") for points in (20, 10, 20, 5)]
    ranking = await _ranking(client, participants[1])
    assert _standings(ranking["topRanking"]) == [
        (1, "P20 Q.", "20"),
        (1, "P20 Q.", "20"),
        (3, "P10 Q.", "10"),
        (4, "P5 Q.", "5"),
    ]
    positions = [(await _ranking(client, participant))["visitorRankingPosition"] for participant in participants]
    assert positions == [1, 3, 1, 4]


async def test_equal_points_are_ordered_by_who_reached_them_first(client: httpx.AsyncClient) -> None:
    challenge = await _challenge(client, winnerNumber=5)
    ada, bob, cyd = [await _join(client, challenge, firstName=name) for name in ("Ada", "Bob", "Cyd")]

    async def order() -> list[str]:
        return [standing["name"][:3] for standing in (await _ranking(client, ada))["topRanking"]]

    assert await order() == ["Ada", "Bob", "Cyd"]
    for participant in (cyd, bob, ada):
        await _add(client, participant, 10)
    assert await order() == ["Cyd", "Bob", "Ada"]
    await _add(client, cyd, 5)
    await _add(client, cyd, -5)
    assert await order() == ["Bob", "Ada", "Cyd"]
    await _patch(client, bob["path"], points=11)
    await _patch(client, bob["path"], points=10)
    assert await order() == ["Ada", "Cyd", "Bob"]


async def test_unchanged_points_keep_the_order_of_equal_participants(client: httpx.AsyncClient) -> None:
    challenge = await _challenge(client, winnerNumber=2)
    ada, bob = [await _join(client, challenge, 10, firstName=name) for name in ("Ada", "Bob")]
    await _patch(client, ada["path"], points=10, bonusEntryCount=1)
    assert [standing["name"] for standing in (await _ranking(client, bob))["topRanking"]] == ["Ada Q.", "Bob Q."]
    await _add(client, ada, 0)
    assert [standing["name"] for standing in (await _ranking(client, bob))["topRanking"]] == ["Ada Q.", "Bob Q."]


async def test_the_top_ranking_has_winner_number_entries_and_marks_the_visitor(client: httpx.AsyncClient) -> None:
    challenge = await _challenge(client, winnerNumber=2)
    participants = [await _join(client, challenge, 30 - index, firstName=f"P{index}") for index in range(3)]
    first = await _ranking(client, participants[0])
    assert first["topRanking"] == [
        {"position": 1, "name": "P0 Q.", "points": "30", "isVisitorRank": True},
        {"position": 2, "name": "P1 Q.", "points": "29", "isVisitorRank": False},
    ]
    assert first["otherRanking"] == []
    last = await _ranking(client, participants[2])
    assert [standing["isVisitorRank"] for standing in last["topRanking"]] == [False, False]
    assert _standings(last["topRanking"]) == _standings(first["topRanking"])


@pytest.mark.parametrize(
    ("index", "neighbours"), [(1, [0, 1, 2, 3]), (2, [0, 1, 2, 3, 4]), (3, [1, 2, 3, 4, 5]), (6, [4, 5, 6]), (0, [])]
)
async def test_a_visitor_outside_the_top_sees_two_participants_above_and_two_below(
    client: httpx.AsyncClient, index: int, neighbours: list[int]
) -> None:
    challenge = await _challenge(client, winnerNumber=1)
    participants = [await _join(client, challenge, 70 - number, firstName=f"P{number}") for number in range(7)]
    ranking = await _ranking(client, participants[index])
    assert ranking["otherRanking"] == [
        {"position": number + 1, "name": f"P{number} Q.", "points": f"{70 - number}", "isVisitorRank": number == index}
        for number in neighbours
    ]
    assert ranking["visitorRankingPosition"] == index + 1


async def test_each_visitor_who_is_not_among_the_entries_of_the_top_ranking_sees_its_neighbourhood(
    stack: Stack, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rankings, "TOP_LIMIT", 2)
    challenge = await _challenge(client, winnerNumber=4)
    participants = [await _join(client, challenge, points) for points in (30, 20, 20, 20, 20, 10)]

    async def position_and_lengths(participant: JsonObject) -> tuple[int, int, int]:
        """The position, and the lengths of topRanking and otherRanking."""
        handler, parts = rankings.OPERATIONS[0].handler, {"path": {"visitorId": participant["visitorId"]}}
        assert handler is not None
        request = rankings.OPERATIONS[0].request.model_validate(parts)
        now = datetime.now(UTC)
        async with stack.engine.connect() as conn:
            ranking = (await handler(handler_tx(conn, now), request)).items[0]
        return ranking.visitor_ranking_position, len(ranking.top_ranking), len(ranking.other_ranking)

    assert [await position_and_lengths(participant) for participant in participants] == [
        (1, 2, 0), (2, 2, 0), (2, 2, 5), (2, 2, 5), (2, 2, 4), (6, 2, 3),
    ]  # fmt: skip


@pytest.mark.parametrize("winners", [INT64, -INT64 - 1])
async def test_a_ranking_accepts_any_winner_number(client: httpx.AsyncClient, winners: int) -> None:
    challenge = await _challenge(client, winnerNumber=winners)
    participants = [await _join(client, challenge, points) for points in (2, 1, 1)]
    rankings_of_all = [await _ranking(client, participant) for participant in participants]
    lengths = [3, 0] if winners > 0 else [0, 3]
    assert [[len(ranking["topRanking"]), len(ranking["otherRanking"])] for ranking in rankings_of_all] == [lengths] * 3


async def test_a_name_is_the_first_name_and_an_initial(client: httpx.AsyncClient) -> None:
    challenge = await _challenge(client, winnerNumber=9)
    for first, last in (("Anne Marie", "de la Tour"), ("Élodie", "Østergård"), ("Bo", "")):
        participant = await _join(client, challenge, firstName=first, lastName=last)
    displayed = [standing["name"] for standing in (await _ranking(client, participant))["topRanking"]]
    assert displayed == ["Anne Marie d.", "Élodie Ø.", "Bo"]


async def test_a_ranking_contains_the_challenge_and_the_visitor_challenge(client: httpx.AsyncClient) -> None:
    challenge = await _challenge(client, displayName=[{"localeCode": "fr-FR", "value": "Pas"}])
    participant = await _join(client, challenge, 12)
    ranking = await _ranking(client, participant)
    visitor_challenge = (await client.get(f"/visitors/{participant['visitorId']}/visitorChallenges")).json()["data"][0]
    assert (ranking["challenge"], ranking["visitorChallenge"]) == (challenge, visitor_challenge)
    assert visitor_challenge["points"] == 12


@pytest.mark.parametrize(
    ("fields", "can_log"),
    [
        ({}, True), ({"status": "draft"}, False), ({"status": "ready"}, False), ({"status": "ended"}, False),
        ({"startDate": FAR_OFF}, False), ({"endDate": LONG_AGO}, False),
    ],
)  # fmt: skip
async def test_points_can_be_logged_only_while_the_challenge_runs(
    client: httpx.AsyncClient, fields: dict[str, str], can_log: bool
) -> None:
    challenge = await _challenge(client)
    participant = await _join(client, challenge)
    await _patch(client, f"/challenges/{challenge['challengeId']}", **fields)
    assert (await _ranking(client, participant))["canLogPoints"] is can_log


async def test_a_higher_bonus_count_sets_bonus_activated_today(client: httpx.AsyncClient) -> None:
    # A zone where it is noon now, so that the day does not end during the test.
    challenge = await _challenge(client, timezone=f"Etc/GMT{datetime.now(UTC).hour - 12:+d}")
    participant, other_participant = await _join(client, challenge, 5), await _join(client, challenge, 5)
    assert (await _ranking(client, participant))["bonusActivatedToday"] is False
    await _patch(client, participant["path"], bonusEntryCount=1)
    assert (await _ranking(client, participant))["bonusActivatedToday"] is True
    assert (await _ranking(client, other_participant))["bonusActivatedToday"] is False


@pytest.mark.parametrize("has_timezone", [True, False])
async def test_today_is_the_day_in_the_time_zone_of_the_challenge_or_in_utc(
    stack: Stack, client: httpx.AsyncClient, has_timezone: bool
) -> None:
    # A zone where it is noon now, or 6 o'clock while it is noon in UTC: its day differs from the day of UTC.
    zone = f"Etc/GMT{datetime.now(UTC).hour - 12 or 6:+d}"
    participant = await _join(client, await _challenge(client, **{"timezone": zone} if has_timezone else {}))
    await _patch(client, participant["path"], bonusEntryCount=1)

    async def are_today() -> list[bool]:
        """Whether midnight is today, and whether the moment before it is."""
        midnight = datetime.now(ZoneInfo(zone if has_timezone else "UTC")).replace(
            hour=0, minute=0, second=0, microsecond=0
        )
        answers = []
        for moment in (midnight, midnight - timedelta(microseconds=1)):
            async with stack.engine.begin() as conn:
                await conn.exec_driver_sql(
                    "update challenge_histories set participation_date = $1 where visitor_challenge_id = $2",
                    (moment, participant["visitorChallengeId"]),
                )
            answers.append((await _ranking(client, participant))["bonusActivatedToday"])
        return answers

    day, answers = datetime.now(UTC).date(), await are_today()
    if datetime.now(UTC).date() != day:  # The day has ended during the loop.
        answers = await are_today()
    assert answers == [True, False]


async def test_the_highest_possible_points_have_a_position(client: httpx.AsyncClient) -> None:
    challenge = await _challenge(client, winnerNumber=1)
    participants = [await _join(client, challenge, points) for points in (INT64, INT64 - 1, 1)]
    rankings_of_all = [await _ranking(client, participant) for participant in participants]
    assert [ranking["visitorRankingPosition"] for ranking in rankings_of_all] == [1, 2, 3]
    assert [standing["points"] for standing in rankings_of_all[2]["otherRanking"]] == [str(INT64), str(INT64 - 1), "1"]


# Several rankings


async def test_rankings_are_paged_and_filtered_by_center_type_and_date(client: httpx.AsyncClient) -> None:
    challenges = [await _challenge(client) for _ in range(3)]
    visitor_id = (await _join(client, challenges[0]))["visitorId"]
    for day, challenge in enumerate(challenges[1:], start=1):
        body = {"challengeId": challenge["challengeId"], "registeredAt": f"2020-01-0{day}T00:00:00Z"}
        await data.create(client, f"/visitors/{visitor_id}/visitorChallenges", body)
    ids = [challenge["challengeId"] for challenge in challenges]

    async def list_ids(**query: str) -> list[int]:
        return [ranking["challenge"]["challengeId"] for ranking in await _rankings(client, visitor_id, **query)]

    assert await list_ids() == await list_ids(type="step_counter") == ids
    assert await list_ids(pcCode=challenges[1]["pcCode"]) == [ids[1]]
    assert await list_ids(limit="2") == ids[:2]
    assert await list_ids(limit="2", offset="1") == ids[1:]
    assert await list_ids(sort="registeredDate") == [ids[1], ids[2], ids[0]]
    assert await list_ids(registerDateUntil="2020-01-02T00:00:00Z") == [ids[1]]
    since = "2020-01-02T00:00:00Z"
    assert await list_ids(registerDateSince=since) == [ids[0], ids[2]]
    assert await list_ids(registerDateSince=since, registerDateUntil="2020-01-02T00:00:01Z") == [ids[2]]
    assert await list_ids(pcCode="FR-NO-ONE") == []
    links = (await client.get(f"/visitors/{visitor_id}/rankings?limit=2")).json()["metadata"]["_links"]
    assert links["next"] == f"/visitors/{visitor_id}/rankings?limit=2&offset=2"


async def test_rankings_of_two_challenges_do_not_mix(client: httpx.AsyncClient) -> None:
    low, high = await _challenge(client, winnerNumber=1), await _challenge(client, winnerNumber=1)
    await _join(client, low, 50, firstName="Low")
    for points in (70, 60):
        await _join(client, high, points, firstName=f"High{points}")
    participant = await _join(client, low, 55, firstName="Own")
    path = f"/visitors/{participant['visitorId']}/visitorChallenges"
    await data.create(client, path, {"challengeId": high["challengeId"]})
    first, second = await _rankings(client, participant["visitorId"])
    assert (first["visitorRankingPosition"], second["visitorRankingPosition"]) == (1, 3)
    assert (_standings(first["topRanking"]), first["otherRanking"]) == ([(1, "Own Q.", "55")], [])
    assert _standings(second["topRanking"]) == [(1, "High70 Q.", "70")]
    assert _standings(second["otherRanking"]) == [(1, "High70 Q.", "70"), (2, "High60 Q.", "60"), (3, "Own Q.", "0")]


async def test_fields_selects_fields_of_a_ranking_and_refuses_unknown_fields(client: httpx.AsyncClient) -> None:
    challenge = await _challenge(client)
    participant = await _join(client, challenge)
    assert await _rankings(client, participant["visitorId"], fields="challenge") == [{"challenge": challenge}]
    for query, code in (("fields=rank", "unknown_reply_field"), ("sort=position", "unknown_sort_field")):
        answer = await client.get(f"/visitors/{participant['visitorId']}/rankings?{query}")
        assert (answer.status_code, error_codes(answer)) == (400, [(query.partition("=")[0], code)])
    answer = await client.get(f"/visitors/{data.ABSENT_VISITOR_ID}/rankings")
    assert (answer.status_code, error_codes(answer)) == (404, [(None, "visitor_not_found")])


# Comparison with a model

VISITORS = 12
ANY_POINTS = st.one_of(st.integers(-3, 3), st.sampled_from([63, 64, -64, 2**40, -(2**40), 2**62]))


@dataclass
class _RankingModel:
    """The points of each participant, and when it reached them."""

    points: list[int]
    moments: list[int]

    def add(self, index: int, points: int, moment: int) -> int:
        """Returns the status of the answer."""
        if not 0 <= self.points[index] + points <= INT64:
            return 400
        if points:
            self.points[index] += points
            self.moments[index] = moment
        return 204

    def order(self) -> list[int]:
        return sorted(range(len(self.points)), key=lambda index: (-self.points[index], self.moments[index]))

    def position(self, index: int) -> int:
        return 1 + sum(points > self.points[index] for points in self.points)

    def ranking(self, index: int, winners: int) -> JsonObject:
        order = self.order()
        rank = order.index(index)
        neighbours = [] if rank < winners else order[max(rank - 2, 0) : rank + 3]

        def expected_standings(indexes: Sequence[int]) -> list[tuple[int, str, str]]:
            return [(self.position(index), f"P{index} Q.", str(self.points[index])) for index in indexes]

        return {
            "topRanking": expected_standings(order[:winners]), "otherRanking": expected_standings(neighbours),
            "visitorRankingPosition": self.position(index),
        }  # fmt: skip


@pytest_asyncio.fixture(scope="module")
async def center_visitors(client: httpx.AsyncClient) -> JsonObject:
    """A center, and visitors who join its challenges."""
    pc_code = (await data.create(client, "/centers", data.center()))["pcCode"]
    bodies = [data.visitor(pc_code, firstName=f"P{number}") for number in range(VISITORS)]
    visitors = await asyncio.gather(*(data.create(client, "/visitors", body) for body in bodies))
    return {"pcCode": pc_code, "visitorIds": [visitor["visitorId"] for visitor in visitors]}


async def _send_in_order(stack: Stack, operation: str, requests: Sequence[Mapping[str, Any]]) -> list[int]:
    """Send to one partition, so that the requests are applied in order. Returns their statuses."""
    ids = [str(uuid4()) for _ in requests]
    for request_id, parts in zip(ids, requests, strict=True):
        await stack.send(operation, parts, request_id=request_id, partition=0)

    async def all_statuses() -> dict[str, int]:
        results = await stack.read(names.results("points"))
        statuses = {record.id: int(record.value["status"]) for record in results if record.id in ids}
        return statuses if len(statuses) == len(ids) else {}

    statuses = await eventually("an answer to every request", all_statuses) if ids else {}
    return [statuses[request_id] for request_id in ids]


async def _join_in_order(stack: Stack, center_visitors: JsonObject, count: int, challenge_id: int) -> list[JsonObject]:
    """The first visitors join a challenge, one after the other. Returns the path parameters of the participants."""
    requests = [
        {"path": {"visitorId": visitor_id}, "body": {"challengeId": challenge_id}}
        for visitor_id in center_visitors["visitorIds"][:count]
    ]
    assert set(await _send_in_order(stack, "visitorChallenges.create", requests)) == {201}
    rows = await stack.rows("select * from visitor_challenges where challenge_id = :id", id=challenge_id)
    ids = {str(row.visitor_id): row.visitor_challenge_id for row in rows}
    return [{**parts["path"], "visitorChallengeId": ids[parts["path"]["visitorId"]]} for parts in requests]


# Without shrinking, because an example takes a second and a test must end within five minutes.
@settings(max_examples=15, deadline=None, print_blob=True, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(
    count=st.integers(1, VISITORS),
    winners=st.integers(0, 6),
    steps=st.lists(st.tuples(st.integers(0, VISITORS - 1), ANY_POINTS), min_size=5, max_size=60),
)
async def test_rankings_equal_those_of_a_model(
    stack: Stack,
    client: httpx.AsyncClient,
    center_visitors: JsonObject,
    count: int,
    winners: int,
    steps: list[tuple[int, int]],
) -> None:
    body = data.challenge(center_visitors["pcCode"], winnerNumber=winners)
    challenge_id = (await data.create(client, "/challenges", body))["challengeId"]
    paths = await _join_in_order(stack, center_visitors, count, challenge_id)
    model = _RankingModel([0] * count, list(range(count)))
    expected = [model.add(index % count, points, moment) for moment, (index, points) in enumerate(steps, start=count)]
    requests = [{"path": paths[index % count], "body": {"points": points}} for index, points in steps]
    assert await _send_in_order(stack, ADD, requests) == expected

    async def ranking(index: int) -> JsonObject:
        visitor_id = center_visitors["visitorIds"][index]
        row = (await _rankings(client, visitor_id, sort="-visitorChallengeId", limit=1))[0]
        assert row["challenge"]["challengeId"] == challenge_id
        shown = row["topRanking"] + row["otherRanking"]
        assert [standing["name"] for standing in shown if standing["isVisitorRank"]] == [f"P{index} Q."]
        standings_by_list = {name: _standings(row[name]) for name in ("topRanking", "otherRanking")}
        return {**standings_by_list, "visitorRankingPosition": row["visitorRankingPosition"]}

    rankings_of_all = await asyncio.gather(*(ranking(index) for index in range(count)))
    assert rankings_of_all == [model.ranking(index, winners) for index in range(count)]


# With 100,000 participants

PARTICIPANTS = 100_000
MAX_ROWS = 2_000
INSERT_STATEMENTS = (
    "insert into visitors (visitor_id, first_name, first_name_key, last_name, email, email_key, barcode,"
    " country_code, account_type, origin_type, origin, creation_date, update_date, revision)"
    " select gen_random_uuid(), 'Many', 'many', 'Quill', :mark || n, :mark || n, :mark || n, 'FR', 'full', 'api',"
    " :mark, now(), now(), 1 from generate_series(1, :count) as n",
    "insert into visitor_challenges (visitor_id, challenge_id, points, total_entry_count, bonus_entry_count,"
    " reward_unlocked, reward_received, registered_date, creation_date, update_date, revision, precedence)"
    " select visitor_id, :challenge, (row_number() over () * 7919) % 30000, 1, 0, false, false, now(), now(), now(), 1,"
    " -nextval('challenge_arrivals') from visitors where origin = :mark",
    "insert into ranking_counts (challenge_id, level, bucket, participants)"
    " select challenge_id, level, points >> (6 * level), count(*)"
    " from visitor_challenges, generate_series(0, 10) as level"
    " where challenge_id = :challenge and (points >> (6 * level)) & 63 <> 0 group by 1, 2, 3",
    # The planner assumes that this is the only challenge, whatever rows other tests have left.
    "alter table visitor_challenges alter column challenge_id set (n_distinct = 1)",
    "alter table ranking_counts alter column challenge_id set (n_distinct = 1)",
)
_SET_REPLICATION_ROLE = (
    "select set_config('session_replication_role', '{}', true) from pg_roles where rolname = current_user and rolsuper"
)
DELETE_STATEMENTS = (
    "alter table visitor_challenges alter column challenge_id reset (n_distinct)",
    "alter table ranking_counts alter column challenge_id reset (n_distinct)",
    "delete from challenge_histories where challenge_id = :challenge",
    "delete from visitor_challenges where challenge_id = :challenge",
    # The foreign key checks of all tables take half a minute. A superuser can switch them off.
    _SET_REPLICATION_ROLE.format("replica"),
    "delete from visitors where origin = :mark",
    _SET_REPLICATION_ROLE.format("origin"),
    "delete from challenges where challenge_id = :challenge",
)


async def _execute_and_vacuum(stack: Stack, statements: Sequence[str], parameters: JsonObject) -> None:
    async with stack.engine.begin() as conn:
        for statement in statements:
            used = {name: value for name, value in parameters.items() if f":{name}" in statement}
            await conn.execute(sa.text(statement), used)
    async with stack.engine.connect() as conn:
        await conn.execution_options(isolation_level="AUTOCOMMIT")
        await conn.exec_driver_sql("vacuum analyze visitors, visitor_challenges, ranking_counts, challenge_histories")


@asynccontextmanager
async def _many_participants(stack: Stack, challenge_id: int, count: int) -> AsyncIterator[None]:
    """Add `count` participants to a challenge, and delete them at the end."""
    parameters = {"challenge": challenge_id, "count": count, "mark": f"many-{challenge_id}-"}
    try:
        await _execute_and_vacuum(stack, INSERT_STATEMENTS, parameters)
        yield
    finally:
        await _execute_and_vacuum(stack, DELETE_STATEMENTS, parameters)


async def test_a_termination_unlocks_each_of_thousands_of_winners_once(stack: Stack, client: httpx.AsyncClient) -> None:
    challenge_id = (await _challenge(client, winnerNumber=2_300))["challengeId"]
    query = (
        "select reward_unlocked, revision from visitor_challenges where challenge_id = :id"
        " order by points desc, precedence desc"
    )
    async with _many_participants(stack, challenge_id, 2_500):
        for _ in range(2):
            answer = await client.post(f"/challenges/{challenge_id}/terminate", json={"ignoreEndDate": True})
            assert answer.status_code == 204
            rows = [tuple(row) for row in await stack.rows(query, id=challenge_id)]
            assert rows == [(True, 2)] * 2_300 + [(False, 1)] * 200


@pytest_asyncio.fixture(scope="module")
async def middle_participant(stack: Stack, client: httpx.AsyncClient) -> AsyncIterator[JsonObject]:
    """The participant in the middle of a challenge with 100,000 participants, and its `path`."""
    challenge_id = (await _challenge(client, winnerNumber=10))["challengeId"]
    async with _many_participants(stack, challenge_id, PARTICIPANTS):
        row = (
            await stack.rows(
                "select * from visitor_challenges where challenge_id = :id order by points offset :half limit 1",
                id=challenge_id,
                half=PARTICIPANTS // 2,
            )
        )[0]
        path = f"/visitors/{row.visitor_id}/visitorChallenges/{row.visitor_challenge_id}"
        yield {**row._mapping, "path": path}


def _rows_read(node: JsonObject) -> float:
    """The rows that a plan node returned and those that it removed."""
    removed = sum(count for name, count in node.items() if name.startswith("Rows Removed by"))
    return float((node["Actual Rows"] + removed) * node["Actual Loops"])


@pytest.mark.parametrize("mode", ["force_custom_plan", "force_generic_plan"])
@pytest.mark.parametrize("name", ["better", "top", "upwards", "below", "earlier equals"])
async def test_each_ranking_statement_reads_few_of_100_000_rows(
    stack: Stack, middle_participant: JsonObject, name: str, mode: str
) -> None:
    challenge_id, points = middle_participant["challenge_id"], middle_participant["points"]
    own_parameters = {
        "participant": [middle_participant["visitor_challenge_id"]], "challenge_id": [challenge_id],
        "own_points": [points], "own_precedence": [middle_participant["precedence"]],
    }  # fmt: skip
    scores = [(challenge_id, points + difference) for difference in range(-2, 3)]
    statement, parameters = {
        "better": (standings.better_statement(), standings.ranges(scores)),
        "top": (ranking_queries.top_statement(), {"challenge_id": [challenge_id], "count": [10]}),
        "upwards": (ranking_queries.upwards_statement(rankings.NEIGHBOURS), own_parameters),
        "below": (ranking_queries.below_statement(rankings.NEIGHBOURS), own_parameters),
        # The last of the participants with equal points.
        "earlier equals": (
            ranking_queries.earlier_equals_statement(),
            own_parameters | {"own_precedence": [-INT64], "limit": [11]},
        ),
    }[name]
    async with stack.engine.connect() as conn:
        nodes = await plan_of(conn, statement, parameters, mode)
    assert any(_rows_read(node) for node in nodes if "Relation Name" in node), "no table was read"
    assert [node for node in nodes if _rows_read(node) > MAX_ROWS] == []
    assert [node["Relation Name"] for node in nodes if node["Node Type"] == "Seq Scan"] == []


@pytest.mark.parametrize("mode", ["force_custom_plan", "force_generic_plan"])
async def test_the_few_unlocked_of_100_000_participants_are_found_by_an_index(
    stack: Stack, middle_participant: JsonObject, mode: str
) -> None:
    filter_conditions = lists.filters(VISITOR_CHALLENGES, ParticipantQuery.model_validate({"rewardUnlocked": True}))
    columns = VISITOR_CHALLENGES.columns
    statement = (
        sa.select(VISITOR_CHALLENGES.sql)
        .where(columns.challenge_id == sa.bindparam("challenge"), *filter_conditions)
        .order_by(columns.visitor_challenge_id)
        .limit(26)
    )
    async with stack.engine.connect() as conn:
        nodes = await plan_of(conn, statement, {"challenge": middle_participant["challenge_id"]}, mode)
    assert [node["Index Name"] for node in nodes if "Index Name" in node] == ["visitor_challenges_unlocked_idx"]
    assert [node for node in nodes if _rows_read(node) > MAX_ROWS] == []


async def test_the_position_among_100_000_participants_equals_the_counted_position(
    stack: Stack, client: httpx.AsyncClient, middle_participant: JsonObject
) -> None:
    ranking = (await _rankings(client, middle_participant["visitor_id"]))[0]
    points = ranking["visitorChallenge"]["points"]
    for standing in [*ranking["otherRanking"], {"position": ranking["visitorRankingPosition"], "points": str(points)}]:
        rows = await stack.rows(
            "select count(*) from visitor_challenges where challenge_id = :id and points > :points",
            id=middle_participant["challenge_id"],
            points=int(standing["points"]),
        )
        assert standing["position"] == 1 + rows[0][0]
    assert PARTICIPANTS / 3 < ranking["visitorRankingPosition"] < PARTICIPANTS * 2 / 3
    assert (len(ranking["topRanking"]), len(ranking["otherRanking"])) == (10, 5)
    assert [standing["isVisitorRank"] for standing in ranking["otherRanking"]] == [False, False, True, False, False]


@pytest.mark.parametrize("points", [1, -1, 4_096, 2**62])
async def test_adding_points_changes_few_ranking_counts_among_100_000_participants(
    stack: Stack, client: httpx.AsyncClient, middle_participant: JsonObject, points: int
) -> None:
    async def counts() -> set[tuple[int, int, int]]:
        statement = "select level, bucket, participants from ranking_counts where challenge_id = :id"
        rows = await stack.rows(statement, id=middle_participant["challenge_id"])
        return {(row.level, row.bucket, row.participants) for row in rows}

    before = await counts()
    await _add(client, middle_participant, points)
    changed = {(level, bucket) for level, bucket, _ in before ^ await counts()}
    assert 1 <= len(changed) <= 2 * standings.LEVELS
    await _add(client, middle_participant, -points)
    assert await counts() == before
