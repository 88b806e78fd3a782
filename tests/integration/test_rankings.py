"""Where visitors stand: the rules, the same from a small model, and what it costs among 100,000."""

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
from storage.tx import Caller, Cause, Tx
from tests.support import data
from tests.support.plans import plan_of
from tests.support.stack import Stack, eventually
from topics import names

LONG_AGO, FAR_OFF = "2001-02-03T04:05:06Z", "2101-02-03T04:05:06Z"
ADD = "visitorChallenges.addPoints"
Known = dict[str, Any]


def _codes(answer: httpx.Response) -> list[tuple[str | None, str]]:
    return [(entry["field"], entry["code"]) for entry in answer.json()["errors"]]


async def _challenge(client: httpx.AsyncClient, **fields: Any) -> Known:
    center = await data.create(client, "/centers", data.center())
    return await data.create(client, "/challenges", data.challenge(center["pcCode"], **fields))


async def _join(client: httpx.AsyncClient, challenge: Known, points: int = 0, **fields: Any) -> Known:
    """A new visitor in a challenge, with points: its part, and the `path` of that."""
    person = await data.create(client, "/visitors", data.visitor(challenge["pcCode"], **fields))
    path = f"/visitors/{person['visitorId']}/visitorChallenges"
    made = await data.create(client, path, {"challengeId": challenge["challengeId"]})
    participant = {**made, "path": f"{path}/{made['visitorChallengeId']}"}
    if points:
        await _add(client, participant, points)
    return participant


async def _add(client: httpx.AsyncClient, participant: Known, points: int) -> None:
    answer = await client.post(f"{participant['path']}/points", json={"points": points})
    assert answer.status_code == 204, answer.text


async def _patch(client: httpx.AsyncClient, path: str, **fields: Any) -> None:
    answer = await client.patch(path, json=fields)
    assert answer.status_code == 204, answer.text


async def _rankings(client: httpx.AsyncClient, visitor_id: str, **query: Any) -> list[Known]:
    answer = await client.get(f"/visitors/{visitor_id}/rankings", params=query)
    assert answer.status_code == 200, answer.text
    found: list[Known] = answer.json()["data"]
    return found


async def _ranking(client: httpx.AsyncClient, participant: Known) -> Known:
    return (await _rankings(client, participant["visitorId"]))[0]


def _lines(ranking: Sequence[Known]) -> list[tuple[int, str, str]]:
    return [(line["position"], line["name"], line["points"]) for line in ranking]


# One ranking


async def test_positions_count_from_1_and_ties_share_one(client: httpx.AsyncClient) -> None:
    challenge = await _challenge(client, winnerNumber=4)
    people = [await _join(client, challenge, points, firstName=f"P{points}") for points in (20, 10, 20, 5)]
    found = await _ranking(client, people[1])
    assert _lines(found["topRanking"]) == [
        (1, "P20 Q.", "20"),
        (1, "P20 Q.", "20"),
        (3, "P10 Q.", "10"),
        (4, "P5 Q.", "5"),
    ]
    positions = [(await _ranking(client, person))["visitorRankingPosition"] for person in people]
    assert positions == [1, 3, 1, 4]


async def test_equal_points_are_ordered_by_who_reached_them_first(client: httpx.AsyncClient) -> None:
    challenge = await _challenge(client, winnerNumber=5)
    ada, bob, cyd = [await _join(client, challenge, firstName=name) for name in ("Ada", "Bob", "Cyd")]

    async def order() -> list[str]:
        return [line["name"][:3] for line in (await _ranking(client, ada))["topRanking"]]

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


async def test_who_keeps_its_points_keeps_its_place_among_equals(client: httpx.AsyncClient) -> None:
    challenge = await _challenge(client, winnerNumber=2)
    ada, bob = [await _join(client, challenge, 10, firstName=name) for name in ("Ada", "Bob")]
    await _patch(client, ada["path"], points=10, bonusEntryCount=1)
    assert [line["name"] for line in (await _ranking(client, bob))["topRanking"]] == ["Ada Q.", "Bob Q."]
    await _add(client, ada, 0)
    assert [line["name"] for line in (await _ranking(client, bob))["topRanking"]] == ["Ada Q.", "Bob Q."]


async def test_the_top_is_the_first_winner_number_and_marks_the_visitor(client: httpx.AsyncClient) -> None:
    challenge = await _challenge(client, winnerNumber=2)
    people = [await _join(client, challenge, 30 - number, firstName=f"P{number}") for number in range(3)]
    first = await _ranking(client, people[0])
    assert first["topRanking"] == [
        {"position": 1, "name": "P0 Q.", "points": "30", "isVisitorRank": True},
        {"position": 2, "name": "P1 Q.", "points": "29", "isVisitorRank": False},
    ]
    assert first["otherRanking"] == []
    last = await _ranking(client, people[2])
    assert [line["isVisitorRank"] for line in last["topRanking"]] == [False, False]
    assert _lines(last["topRanking"]) == _lines(first["topRanking"])


@pytest.mark.parametrize(
    ("own", "around"), [(1, [0, 1, 2, 3]), (2, [0, 1, 2, 3, 4]), (3, [1, 2, 3, 4, 5]), (6, [4, 5, 6]), (0, [])]
)
async def test_the_neighbourhood_is_two_above_and_two_below_where_the_visitor_is_not_in_the_top(
    client: httpx.AsyncClient, own: int, around: list[int]
) -> None:
    challenge = await _challenge(client, winnerNumber=1)
    people = [await _join(client, challenge, 70 - number, firstName=f"P{number}") for number in range(7)]
    found = await _ranking(client, people[own])
    assert found["otherRanking"] == [
        {"position": number + 1, "name": f"P{number} Q.", "points": f"{70 - number}", "isVisitorRank": number == own}
        for number in around
    ]
    assert found["visitorRankingPosition"] == own + 1


async def test_who_is_in_the_top_does_not_depend_on_how_much_of_it_is_shown(
    stack: Stack, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rankings, "TOP_LIMIT", 2)
    challenge = await _challenge(client, winnerNumber=4)
    people = [await _join(client, challenge, points) for points in (30, 20, 20, 20, 20, 10)]

    async def shown(participant: Known) -> tuple[int, int, int]:
        """The position, and the lengths of the two lists."""
        handler, parts = rankings.OPERATIONS[0].handler, {"path": {"visitorId": participant["visitorId"]}}
        assert handler is not None
        request = rankings.OPERATIONS[0].request.model_validate(parts)
        cause = Cause("test", Caller("test", "test"), datetime.now(UTC))
        async with stack.engine.connect() as conn:
            found = (await handler(Tx(conn, cause, cause.arrived), request)).items[0]
        return found.visitor_ranking_position, len(found.top_ranking), len(found.other_ranking)

    assert [await shown(person) for person in people] == [
        (1, 2, 0), (2, 2, 0), (2, 2, 0), (2, 2, 0), (2, 2, 4), (6, 2, 3),
    ]  # fmt: skip


@pytest.mark.parametrize("winners", [INT64, -INT64 - 1])
async def test_any_number_of_winners_makes_a_ranking(client: httpx.AsyncClient, winners: int) -> None:
    challenge = await _challenge(client, winnerNumber=winners)
    people = [await _join(client, challenge, points) for points in (2, 1, 1)]
    found = [await _ranking(client, person) for person in people]
    all_of_them = [3, 0] if winners > 0 else [0, 3]
    assert [[len(row["topRanking"]), len(row["otherRanking"])] for row in found] == [all_of_them] * 3


async def test_a_name_is_the_first_name_and_an_initial(client: httpx.AsyncClient) -> None:
    challenge = await _challenge(client, winnerNumber=9)
    for first, last in (("Anne Marie", "de la Tour"), ("Élodie", "Østergård"), ("Bo", "")):
        person = await _join(client, challenge, firstName=first, lastName=last)
    shown = [line["name"] for line in (await _ranking(client, person))["topRanking"]]
    assert shown == ["Anne Marie d.", "Élodie Ø.", "Bo"]


async def test_a_ranking_holds_the_challenge_and_the_visitors_part(client: httpx.AsyncClient) -> None:
    challenge = await _challenge(client, displayName=[{"localeCode": "fr-FR", "value": "Pas"}])
    participant = await _join(client, challenge, 12)
    found = await _ranking(client, participant)
    own = (await client.get(f"/visitors/{participant['visitorId']}/visitorChallenges")).json()["data"][0]
    assert (found["challenge"], found["visitorChallenge"]) == (challenge, own)
    assert own["points"] == 12


@pytest.mark.parametrize(
    ("fields", "can"),
    [
        ({}, True), ({"status": "draft"}, False), ({"status": "ready"}, False), ({"status": "ended"}, False),
        ({"startDate": FAR_OFF}, False), ({"endDate": LONG_AGO}, False),
    ],
)  # fmt: skip
async def test_points_can_be_logged_while_the_challenge_runs(
    client: httpx.AsyncClient, fields: dict[str, str], can: bool
) -> None:
    challenge = await _challenge(client)
    participant = await _join(client, challenge)
    await _patch(client, f"/challenges/{challenge['challengeId']}", **fields)
    assert (await _ranking(client, participant))["canLogPoints"] is can


async def test_a_raised_bonus_is_activated_today(client: httpx.AsyncClient) -> None:
    challenge = await _challenge(client, timezone="Europe/Paris")
    participant, other = await _join(client, challenge, 5), await _join(client, challenge, 5)
    assert (await _ranking(client, participant))["bonusActivatedToday"] is False
    await _patch(client, participant["path"], bonusEntryCount=1)
    assert (await _ranking(client, participant))["bonusActivatedToday"] is True
    assert (await _ranking(client, other))["bonusActivatedToday"] is False


@pytest.mark.parametrize("named", [True, False])
async def test_today_is_the_day_of_the_challenges_time_zone_or_of_utc(
    stack: Stack, client: httpx.AsyncClient, named: bool
) -> None:
    # A zone where it is noon now, or where it is 6 o'clock while it is noon in UTC: its day is not the one of UTC.
    zone = f"Etc/GMT{datetime.now(UTC).hour - 12 or 6:+d}"
    participant = await _join(client, await _challenge(client, **{"timezone": zone} if named else {}))
    await _patch(client, participant["path"], bonusEntryCount=1)
    midnight = datetime.now(ZoneInfo(zone if named else "UTC")).replace(hour=0, minute=0, second=0, microsecond=0)
    for moment, today in ((midnight, True), (midnight - timedelta(microseconds=1), False)):
        async with stack.engine.begin() as conn:
            await conn.exec_driver_sql(
                "update challenge_histories set participation_date = $1 where visitor_challenge_id = $2",
                (moment, participant["visitorChallengeId"]),
            )
        assert (await _ranking(client, participant))["bonusActivatedToday"] is today


async def test_the_highest_points_there_are_have_a_position(client: httpx.AsyncClient) -> None:
    challenge = await _challenge(client, winnerNumber=1)
    people = [await _join(client, challenge, points) for points in (INT64, INT64 - 1, 1)]
    found = [await _ranking(client, person) for person in people]
    assert [row["visitorRankingPosition"] for row in found] == [1, 2, 3]
    assert [line["points"] for line in found[2]["otherRanking"]] == [str(INT64), str(INT64 - 1), "1"]


# Several rankings


async def test_rankings_are_paged_and_filtered_by_center_type_and_date(client: httpx.AsyncClient) -> None:
    challenges = [await _challenge(client) for _ in range(3)]
    visitor_id = (await _join(client, challenges[0]))["visitorId"]
    for day, challenge in enumerate(challenges[1:], start=1):
        joining = {"challengeId": challenge["challengeId"], "registeredAt": f"2020-01-0{day}T00:00:00Z"}
        await data.create(client, f"/visitors/{visitor_id}/visitorChallenges", joining)
    ids = [challenge["challengeId"] for challenge in challenges]

    async def listed(**query: str) -> list[int]:
        return [row["challenge"]["challengeId"] for row in await _rankings(client, visitor_id, **query)]

    assert await listed() == await listed(type="step_counter") == ids
    assert await listed(pcCode=challenges[1]["pcCode"]) == [ids[1]]
    assert await listed(limit="2") == ids[:2]
    assert await listed(limit="2", offset="1") == ids[1:]
    assert await listed(sort="registeredDate") == [ids[1], ids[2], ids[0]]
    assert await listed(registerDateUntil="2020-01-02T00:00:00Z") == [ids[1]]
    since = "2020-01-02T00:00:00Z"
    assert await listed(registerDateSince=since) == [ids[0], ids[2]]
    assert await listed(registerDateSince=since, registerDateUntil="2020-01-02T00:00:01Z") == [ids[2]]
    assert await listed(pcCode="FR-NO-ONE") == []
    links = (await client.get(f"/visitors/{visitor_id}/rankings?limit=2")).json()["metadata"]["_links"]
    assert links["next"] == f"/visitors/{visitor_id}/rankings?limit=2&offset=2"


async def test_rankings_of_challenges_with_other_participants_do_not_mix(client: httpx.AsyncClient) -> None:
    low, high = await _challenge(client, winnerNumber=1), await _challenge(client, winnerNumber=1)
    await _join(client, low, 50, firstName="Low")
    for points in (70, 60):
        await _join(client, high, points, firstName=f"High{points}")
    own = await _join(client, low, 55, firstName="Own")
    path = f"/visitors/{own['visitorId']}/visitorChallenges"
    await data.create(client, path, {"challengeId": high["challengeId"]})
    first, second = await _rankings(client, own["visitorId"])
    assert (first["visitorRankingPosition"], second["visitorRankingPosition"]) == (1, 3)
    assert (_lines(first["topRanking"]), first["otherRanking"]) == ([(1, "Own Q.", "55")], [])
    assert _lines(second["topRanking"]) == [(1, "High70 Q.", "70")]
    assert _lines(second["otherRanking"]) == [(1, "High70 Q.", "70"), (2, "High60 Q.", "60"), (3, "Own Q.", "0")]


async def test_fields_selects_of_a_ranking_and_names_what_is_unknown(client: httpx.AsyncClient) -> None:
    challenge = await _challenge(client)
    participant = await _join(client, challenge)
    assert await _rankings(client, participant["visitorId"], fields="challenge") == [{"challenge": challenge}]
    for query, fault in (("fields=rank", "unknown_reply_field"), ("sort=position", "unknown_sort_field")):
        answer = await client.get(f"/visitors/{participant['visitorId']}/rankings?{query}")
        assert (answer.status_code, _codes(answer)) == (400, [(query.partition("=")[0], fault)])
    answer = await client.get(f"/visitors/{data.NOBODY}/rankings")
    assert (answer.status_code, _codes(answer)) == (404, [(None, "visitor_not_found")])


# The same from a model

CROWD = 12
POINTS = st.one_of(st.integers(-3, 3), st.sampled_from([63, 64, -64, 2**40, -(2**40), 2**62]))


@dataclass
class _Model:
    """What each participant has, and when it reached that."""

    points: list[int]
    reached: list[int]

    def add(self, who: int, points: int, moment: int) -> int:
        """The status of the answer."""
        if not 0 <= self.points[who] + points <= INT64:
            return 400
        if points:
            self.points[who] += points
            self.reached[who] = moment
        return 204

    def order(self) -> list[int]:
        return sorted(range(len(self.points)), key=lambda who: (-self.points[who], self.reached[who]))

    def position(self, who: int) -> int:
        return 1 + sum(points > self.points[who] for points in self.points)

    def ranking(self, own: int, winners: int) -> Known:
        order = self.order()
        place = order.index(own)
        around = [] if place < winners else order[max(place - 2, 0) : place + 3]

        def lines(people: Sequence[int]) -> list[tuple[int, str, str]]:
            return [(self.position(who), f"P{who} Q.", str(self.points[who])) for who in people]

        return {
            "topRanking": lines(order[:winners]), "otherRanking": lines(around),
            "visitorRankingPosition": self.position(own),
        }  # fmt: skip


@pytest_asyncio.fixture(scope="module")
async def crowd(client: httpx.AsyncClient) -> Known:
    """A center, and visitors that join its challenges."""
    pc_code = (await data.create(client, "/centers", data.center()))["pcCode"]
    bodies = [data.visitor(pc_code, firstName=f"P{number}") for number in range(CROWD)]
    people = await asyncio.gather(*(data.create(client, "/visitors", body) for body in bodies))
    return {"pcCode": pc_code, "visitorIds": [person["visitorId"] for person in people]}


async def _in_order(stack: Stack, operation: str, requests: Sequence[Mapping[str, Any]]) -> list[int]:
    """Send to one partition, which is worked off in order, in batches as they come; the status of each."""
    ids = [str(uuid4()) for _ in requests]
    for request_id, parts in zip(ids, requests, strict=True):
        await stack.send(operation, parts, request_id=request_id, partition=0)

    async def answered() -> dict[str, int]:
        results = await stack.read(names.results("points"))
        found = {record.id: int(record.value["status"]) for record in results if record.id in ids}
        return found if len(found) == len(ids) else {}

    found = await eventually("an answer to every request", answered) if ids else {}
    return [found[request_id] for request_id in ids]


async def _entered(stack: Stack, crowd: Known, count: int, challenge_id: int) -> list[Known]:
    """The paths of the first visitors' parts in a challenge, which they joined one after the other."""
    joining = [
        {"path": {"visitorId": visitor_id}, "body": {"challengeId": challenge_id}}
        for visitor_id in crowd["visitorIds"][:count]
    ]
    assert set(await _in_order(stack, "visitorChallenges.create", joining)) == {201}
    rows = await stack.rows("select * from visitor_challenges where challenge_id = :id", id=challenge_id)
    ids = {str(row.visitor_id): row.visitor_challenge_id for row in rows}
    return [{**parts["path"], "visitorChallengeId": ids[parts["path"]["visitorId"]]} for parts in joining]


# Without shrinking: an example takes a second, and a test has five minutes.
@settings(max_examples=15, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(
    count=st.integers(1, CROWD),
    winners=st.integers(0, 6),
    steps=st.lists(st.tuples(st.integers(0, CROWD - 1), POINTS), min_size=5, max_size=60),
)
async def test_rankings_are_those_of_a_model(
    stack: Stack, client: httpx.AsyncClient, crowd: Known, count: int, winners: int, steps: list[tuple[int, int]]
) -> None:
    body = data.challenge(crowd["pcCode"], winnerNumber=winners)
    challenge_id = (await data.create(client, "/challenges", body))["challengeId"]
    paths = await _entered(stack, crowd, count, challenge_id)
    model = _Model([0] * count, list(range(count)))
    wanted = [model.add(who % count, points, moment) for moment, (who, points) in enumerate(steps, start=count)]
    adding = [{"path": paths[who % count], "body": {"points": points}} for who, points in steps]
    assert await _in_order(stack, ADD, adding) == wanted

    async def ranking(who: int) -> Known:
        row = (await _rankings(client, crowd["visitorIds"][who], sort="-visitorChallengeId", limit=1))[0]
        assert row["challenge"]["challengeId"] == challenge_id
        own = [line for line in row["topRanking"] + row["otherRanking"] if line["isVisitorRank"]]
        assert [line["name"] for line in own] == [f"P{who} Q."]
        lists = {name: _lines(row[name]) for name in ("topRanking", "otherRanking")}
        return {**lists, "visitorRankingPosition": row["visitorRankingPosition"]}

    found = await asyncio.gather(*(ranking(who) for who in range(count)))
    assert found == [model.ranking(who, winners) for who in range(count)]


# Among 100,000

MANY = 100_000
MOST_ROWS = 2_000
FILL = (
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
    # To the planner it is the only challenge there is, whatever other tests have left behind.
    "alter table visitor_challenges alter column challenge_id set (n_distinct = 1)",
    "alter table ranking_counts alter column challenge_id set (n_distinct = 1)",
)
_CHECKS = (
    "select set_config('session_replication_role', '{}', true) from pg_roles where rolname = current_user and rolsuper"
)
EMPTY = (
    "alter table visitor_challenges alter column challenge_id reset (n_distinct)",
    "alter table ranking_counts alter column challenge_id reset (n_distinct)",
    "delete from challenge_histories where challenge_id = :challenge",
    "delete from visitor_challenges where challenge_id = :challenge",
    # To look for what refers to each of them, in all tables, takes half a minute; who may do without does.
    _CHECKS.format("replica"),
    "delete from visitors where origin = :mark",
    _CHECKS.format("origin"),
    "delete from challenges where challenge_id = :challenge",
)


async def _all(stack: Stack, statements: Sequence[str], parameters: Known) -> None:
    async with stack.engine.begin() as conn:
        for statement in statements:
            needed = {name: value for name, value in parameters.items() if f":{name}" in statement}
            await conn.execute(sa.text(statement), needed)
    async with stack.engine.connect() as conn:
        await conn.execution_options(isolation_level="AUTOCOMMIT")
        await conn.exec_driver_sql("vacuum analyze visitors, visitor_challenges, ranking_counts, challenge_histories")


@asynccontextmanager
async def _filled(stack: Stack, challenge_id: int, count: int) -> AsyncIterator[None]:
    """A challenge with so many participants, for a while."""
    parameters = {"challenge": challenge_id, "count": count, "mark": f"many-{challenge_id}-"}
    try:
        await _all(stack, FILL, parameters)
        yield
    finally:
        await _all(stack, EMPTY, parameters)


async def test_an_end_unlocks_each_of_thousands_of_winners_once(stack: Stack, client: httpx.AsyncClient) -> None:
    challenge_id = (await _challenge(client, winnerNumber=2_300))["challengeId"]
    order = (
        "select reward_unlocked, revision from visitor_challenges where challenge_id = :id"
        " order by points desc, precedence desc"
    )
    async with _filled(stack, challenge_id, 2_500):
        for _ in range(2):
            ended = await client.post(f"/challenges/{challenge_id}/terminate", json={"ignoreEndDate": True})
            assert ended.status_code == 204
            rows = [tuple(row) for row in await stack.rows(order, id=challenge_id)]
            assert rows == [(True, 2)] * 2_300 + [(False, 1)] * 200


@pytest_asyncio.fixture(scope="module")
async def many(stack: Stack, client: httpx.AsyncClient) -> AsyncIterator[Known]:
    """A challenge with very many participants, of which one in the middle: its part, and the `path` of that."""
    challenge_id = (await _challenge(client, winnerNumber=10))["challengeId"]
    async with _filled(stack, challenge_id, MANY):
        row = (
            await stack.rows(
                "select * from visitor_challenges where challenge_id = :id order by points offset :half limit 1",
                id=challenge_id,
                half=MANY // 2,
            )
        )[0]
        path = f"/visitors/{row.visitor_id}/visitorChallenges/{row.visitor_challenge_id}"
        yield {**row._mapping, "path": path}


def _rows_read(node: Known) -> float:
    """Those that a node passed on, and those it looked at in vain."""
    removed = sum(number for name, number in node.items() if name.startswith("Rows Removed by"))
    return float((node["Actual Rows"] + removed) * node["Actual Loops"])


@pytest.mark.parametrize("mode", ["force_custom_plan", "force_generic_plan"])
@pytest.mark.parametrize("name", ["better", "top", "upwards", "below", "earlier equals"])
async def test_no_statement_of_a_ranking_reads_more_rows_among_100_000(
    stack: Stack, many: Known, name: str, mode: str
) -> None:
    own = {
        "participant": [many["visitor_challenge_id"]], "challenge_id": [many["challenge_id"]],
        "own_points": [many["points"]], "own_precedence": [many["precedence"]],
    }  # fmt: skip
    around = [(many["challenge_id"], many["points"] + step) for step in range(-2, 3)]
    statement, parameters = {
        "better": (standings.better_statement(), standings.ranges(around)),
        "top": (ranking_queries.top_statement(), {"challenge_id": [many["challenge_id"]], "count": [10]}),
        "upwards": (ranking_queries.upwards_statement(rankings.NEIGHBOURS), own),
        "below": (ranking_queries.below_statement(rankings.NEIGHBOURS), own),
        # As the last one of its equals.
        "earlier equals": (
            ranking_queries.earlier_equals_statement(),
            own | {"own_precedence": [-INT64], "limit": [11]},
        ),
    }[name]
    async with stack.engine.connect() as conn:
        nodes = await plan_of(conn, statement, parameters, mode)
    assert any(_rows_read(node) for node in nodes if "Relation Name" in node), "nothing was read at all"
    assert [node for node in nodes if _rows_read(node) > MOST_ROWS] == []
    assert [node["Relation Name"] for node in nodes if node["Node Type"] == "Seq Scan"] == []


@pytest.mark.parametrize("mode", ["force_custom_plan", "force_generic_plan"])
async def test_the_few_unlocked_of_100_000_are_found_along_an_index(stack: Stack, many: Known, mode: str) -> None:
    unlocked = lists.filters(VISITOR_CHALLENGES, ParticipantQuery.model_validate({"rewardUnlocked": True}))
    columns = VISITOR_CHALLENGES.columns
    found = (
        sa.select(VISITOR_CHALLENGES.sql)
        .where(columns.challenge_id == sa.bindparam("challenge"), *unlocked)
        .order_by(columns.visitor_challenge_id)
        .limit(26)
    )
    async with stack.engine.connect() as conn:
        nodes = await plan_of(conn, found, {"challenge": many["challenge_id"]}, mode)
    assert [node["Index Name"] for node in nodes if "Index Name" in node] == ["visitor_challenges_unlocked_idx"]
    assert [node for node in nodes if _rows_read(node) > MOST_ROWS] == []


async def test_the_position_in_the_middle_of_100_000_is_the_counted_one(
    stack: Stack, client: httpx.AsyncClient, many: Known
) -> None:
    found = (await _rankings(client, many["visitor_id"]))[0]
    points = found["visitorChallenge"]["points"]
    for line in [*found["otherRanking"], {"position": found["visitorRankingPosition"], "points": str(points)}]:
        counted = await stack.rows(
            "select count(*) from visitor_challenges where challenge_id = :id and points > :points",
            id=many["challenge_id"],
            points=int(line["points"]),
        )
        assert line["position"] == 1 + counted[0][0]
    assert MANY / 3 < found["visitorRankingPosition"] < MANY * 2 / 3
    assert (len(found["topRanking"]), len(found["otherRanking"])) == (10, 5)
    assert [line["isVisitorRank"] for line in found["otherRanking"]] == [False, False, True, False, False]


@pytest.mark.parametrize("points", [1, -1, 4_096, 2**62])
async def test_points_move_a_few_counts_however_many_take_part(
    stack: Stack, client: httpx.AsyncClient, many: Known, points: int
) -> None:
    async def counts() -> set[tuple[int, int, int]]:
        statement = "select level, bucket, participants from ranking_counts where challenge_id = :id"
        return {
            (row.level, row.bucket, row.participants) for row in await stack.rows(statement, id=many["challenge_id"])
        }

    before = await counts()
    await _add(client, many, points)
    moved = {(level, bucket) for level, bucket, _ in before ^ await counts()}
    assert 1 <= len(moved) <= 2 * standings.LEVELS
    await _add(client, many, -points)
    assert await counts() == before
