"""`visitor simulate` does in an installation what its plan says."""

import re
from collections import defaultdict

import httpx

from runtime.simulation import people, plan
from runtime.simulation.run import Options
from tests.support.stack import Stack

OPTIONS = Options(seed=20, speed=600, rate=20, minutes=30)
"""With late and repeated messages, and a gateway that is offline for some of the time."""


async def test_half_an_hour_leaves_the_visits_of_the_plan(stack: Stack, client: httpx.AsyncClient) -> None:
    done = await stack.command(
        "simulate", "--seed", "20", "--speed", "600", "--rate", "20", "--minutes", "30", "--url", stack.url
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr

    everybody = await people.ensure(client, OPTIONS.people)
    sends = list(plan.sends(OPTIONS.seed, everybody, OPTIONS.simulated_rate, OPTIONS.until))
    assert {send.reason for send in sends} == {"prompt", "late", "backlog", "repeated"}
    passages = {send.number: send.passage for send in sends}
    planned: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for passage in sorted(passages.values(), key=lambda passage: passage.at):
        planned[passage.person.visitor_id].append((passage.person.pc_code, passage.visit_type))

    stored: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for row in await stack.rows(
        "select v.visitor_id, v.pc_code, visit_type from visits v join visitors using (visitor_id)"
        " where email like '%@simulated.example' order by visit_date"
    ):
        stored[str(row.visitor_id)].append((row.pc_code, row.visit_type))
    assert stored == planned

    counts = dict(re.findall(r"│ ([a-z]+: \S+|requests without a result) +│ +([\d,]+) +│", done.stdout))
    assert int(counts["results: 201"]) == len(passages)
    assert counts["messages: repeated"] == str(len(sends) - len(passages))
    assert counts["requests without a result"] == "0"
    assert int(counts["calls: 200"]) > 0
    assert {name for name in counts if re.fullmatch(r"calls: [^2].*", name)} == set()
