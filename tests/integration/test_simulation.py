"""`visitor simulate` does in an installation what its plan says."""

import re
from collections import defaultdict

import httpx

from runtime.simulation import people, plan
from runtime.simulation.run import Options
from tests.support import terminal
from tests.support.stack import Stack, eventually

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

    assert "simulated minutes" not in done.stderr, "a pipe gets no progress bar"
    counts = dict(re.findall(r"│ ([a-z]+: \S+|requests without a result) +│ +([\d,]+) +│", done.stdout))
    assert int(counts["results: 201"]) == len(passages)
    assert counts["messages: repeated"] == str(len(sends) - len(passages))
    assert counts["requests without a result"] == "0"
    assert int(counts["calls: 200"]) > 0
    assert {name for name in counts if re.fullmatch(r"calls: [^2].*", name)} == set()
    latencies = _latencies(done.stdout)
    assert latencies["append to result"][0] == latencies["append to change"][0] == len(passages)
    assert latencies["call"][0] == sum(int(count) for name, count in counts.items() if name.startswith("calls: "))


def _latencies(output: str) -> dict[str, tuple[int, ...]]:
    """The count, the median and the 99th percentile in milliseconds, by name. The percentiles are plausible."""
    rows = re.findall(r"│ ([a-z ]+) +│ +([\d,]+) +│ +([\d,]+) ms +│ +([\d,]+) ms +│", output)
    latencies = {name.strip(): tuple(int(cell.replace(",", "")) for cell in cells) for name, *cells in rows}
    assert latencies.keys() == {"call", "append to result", "append to change"}, output
    assert all(0 < median <= p99 < 60_000 for _, median, p99 in latencies.values()), output
    return latencies


async def test_ctrl_c_ends_a_simulation_with_its_summary(stack: Stack) -> None:
    arguments = ["simulate", "--seed", "20", "--speed", "600", "--rate", "5", "--url", stack.url]
    async with terminal.running(arguments, stack.environment()) as shown:

        async def is_running() -> bool:
            return re.search(r"simulated minutes .* [1-9]\d*/\?", shown.output) is not None

        await eventually("some simulated minutes", is_running)
        shown.interrupt()
        assert await shown.wait() == 0
    summary = shown.output.partition("Simulation ")[2]
    for text in ("append to result", "messages: prompt", "requests without a result"):
        assert text in summary
    assert "Traceback" not in shown.output
    assert shown.is_clean
