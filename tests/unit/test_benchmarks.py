"""The table of `make bench`. Nothing is measured here."""

import re

import pytest

from benchmarks import growth, sizes
from benchmarks.__main__ import GROUPS
from benchmarks.publish import PERFORMANCE, with_figures
from benchmarks.results import Result, Row, alternate, at_least, at_most

_ROWS = [*(row for group in GROUPS for row in group.rows), *growth.ROWS]


def test_the_target_of_a_row_is_compared_with_the_median_of_the_ratios() -> None:
    row = Row("visits", "visits", "a peer", "calls/s", at_least(1.2))
    result = Result(row, work=[100, 300, 500], peer=[100, 200, 500])
    assert list(result.values) == [1, 1.5, 1]
    assert result.median == 1
    assert not result.is_hit


def test_a_row_without_a_peer_is_compared_by_its_value() -> None:
    row = Row("memory", "memory", None, "MB", at_most(256))
    assert Result(row, work=[200, 256, 300]).is_hit
    assert not Result(row, work=[257]).is_hit


async def test_peers_alternate_and_their_order_changes_with_each_round() -> None:
    order = []

    def measure(name: str, value: float):  # type: ignore[no-untyped-def]
        async def run() -> float:
            order.append(name)
            return value

        return run

    values = await alternate({"work": measure("work", 1), "peer": measure("peer", 2)}, 2)
    assert values == {"work": [1, 1], "peer": [2, 2]}
    assert order == ["work", "peer", "peer", "work"]


def test_names_are_unique_so_that_each_row_can_be_selected() -> None:
    names = [row.name for row in _ROWS]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("row", _ROWS, ids=lambda row: row.name)
def test_the_docs_show_the_target_of_each_row(row: Row) -> None:
    lines = PERFORMANCE.read_text().splitlines()
    assert any(f"| `{row.name}` |" in line and f"| {row.target} |" in line for line in lines)


@pytest.mark.parametrize("row", sizes.ROWS, ids=lambda row: row.name)
def test_the_sizing_has_the_published_sizes(row: Row) -> None:
    published = re.search(rf"^\| `{re.escape(row.name)}` \| (\d+ bytes) \|", PERFORMANCE.read_text(), re.MULTILINE)
    assert published is not None
    assert f"{published[1]} (`{row.name}`)" in (PERFORMANCE.parent / "deploy.md").read_text()


def test_published_figures_replace_those_of_their_row_only() -> None:
    row = Row("http.visits.8", "visits", "a peer", "calls/s", at_least(1.2))
    result = Result(row, work=[100, 300], peer=[100, 200])
    page = with_figures(PERFORMANCE.read_text(), [{"machine": {"commit": "abc"}, "results": [result.as_json()]}])
    before, after = PERFORMANCE.read_text().splitlines(), page.splitlines()
    assert [line for line in after if line not in before] == [
        "| `http.visits.8` | 200 calls/s | 150 calls/s | 1.25 | 1 to 1.5 | abc | ≥ 1.2 | hit |"
    ]
    assert len(after) == len(before)
