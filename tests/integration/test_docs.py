"""The code in README.md and docs/ works as a reader meets it: `sh` blocks, SQL and the example programs in Python are
run against an installation with the sample data, `json` blocks are JSON. Blocks of other languages are shown only;
`tests/unit/test_cli.py` looks at the commands and options in them. `interop/` runs the examples in all languages, under
worse conditions. Links, and the files and tests that a page names, exist.
"""

import asyncio
import json
import os
import re
import sqlite3
import subprocess
import sys
from collections.abc import Awaitable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio
from markdown_it import MarkdownIt

from runtime.dev import sample
from tests.support.pages import ROOT, anchors, install_visitor
from tests.support.stack import Stack, eventually
from topics import names

EXAMPLES = ROOT / "examples"
PAGES = [
    ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md")), *sorted(ROOT.glob("*.md")),
    EXAMPLES / "README.md", *sorted(EXAMPLES.glob("*/README.md")),
]  # fmt: skip
FOLLOWS = re.compile(r"visitor consume (\S+)")


@dataclass(frozen=True)
class Block:
    page: str
    line: int
    language: str
    code: str


def _blocks(*languages: str) -> Iterator[Block]:
    for page in dict.fromkeys(PAGES):
        for token in MarkdownIt().parse(page.read_text()):
            if token.type == "fence" and token.info in languages:
                assert token.map is not None
                yield Block(str(page.relative_to(ROOT)), token.map[0] + 1, token.info, token.content)


def _named(block: Block) -> str:
    return f"{block.page}:{block.line}"


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def people(stack: Stack) -> list[sample.SamplePerson]:
    await sample.ensure(stack.url)
    return await sample.find(stack.url)


@pytest.fixture(scope="session")
def reader(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which a reader works, with `.venv/bin/visitor` and the examples."""
    folder = tmp_path_factory.mktemp("reader")
    (folder / "examples").symlink_to(EXAMPLES)
    programs = folder / ".venv" / "bin"
    programs.mkdir(parents=True)
    install_visitor(programs)
    return folder


def _here(stack: Stack, code: str) -> str:
    return code.replace("127.0.0.1:9092", stack.servers.kafka).replace("http://127.0.0.1:8080", stack.url)


@pytest.mark.parametrize("block", list(_blocks("json")), ids=_named)
def test_json_in_the_docs_is_json(block: Block) -> None:
    assert isinstance(json.loads(block.code), dict)


@pytest.mark.parametrize("block", list(_blocks("sh")), ids=_named)
async def test_commands_in_the_docs_work(
    stack: Stack, reader: Path, people: list[sample.SamplePerson], block: Block
) -> None:
    for command in re.split(r"(?<!\\)\n", _here(stack, block.code).strip()):
        followed = FOLLOWS.search(command)
        if followed:
            await _follow(stack, reader, command)
            continue
        done = await asyncio.to_thread(_run, stack, reader, command)
        assert done.returncode == 0, done.stderr
        assert not re.search(r'"errors"|HTTP/1.1 [45]', done.stdout), done.stdout


def _run(stack: Stack, reader: Path, command: str) -> "subprocess.CompletedProcess[str]":
    path = f"{reader / '.venv' / 'bin'}:{os.environ['PATH']}"
    return subprocess.run(
        ["bash", "-c", command], cwd=reader, env=stack.environment(PATH=path), capture_output=True, text=True,
        check=False, timeout=60,
    )  # fmt: skip


async def _follow(stack: Stack, reader: Path, command: str) -> None:
    """`visitor consume` prints until it is interrupted; one line is enough."""
    process = await asyncio.create_subprocess_exec(
        "bash", "-c", f"exec env {command}", cwd=reader, env=stack.environment(), stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    line = await asyncio.wait_for(process.stdout.readline(), 60)
    assert json.loads(line)["headers"]["ce_type"].startswith("visitor.")
    process.terminate()
    await process.wait()


def _queries() -> Iterator[str]:
    """The SELECT statements of `sql` blocks and code spans."""
    for page in PAGES:
        tokens = MarkdownIt("commonmark").enable("table").parse(page.read_text())
        spans = [span for token in tokens for span in token.children or () if span.type == "code_inline"]
        blocks = [token for token in tokens if token.type == "fence" and token.info == "sql"]
        yield from (each.content for each in (*blocks, *spans) if re.match("select .* from", each.content))


async def test_queries_in_the_docs_work(stack: Stack) -> None:
    queries = list(_queries())
    assert queries
    for query in queries:
        await stack.rows(query)


def _example(stack: Stack, folder: Path, name: str) -> Awaitable[asyncio.subprocess.Process]:
    """Start an example program in Python, with its files in `folder`."""
    settings = {"KAFKA_BOOTSTRAP": stack.servers.kafka, "REGISTRY_URL": f"{stack.url}/registry"}
    return asyncio.create_subprocess_exec(
        sys.executable, str(EXAMPLES / "python" / name), cwd=folder, env=stack.environment(**settings),
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip


async def test_the_gateway_sends_a_visit(stack: Stack, tmp_path: Path, people: list[sample.SamplePerson]) -> None:
    gateway = await _example(stack, tmp_path, "gateway.py")
    await gateway.communicate(b"entry AX-100-FR\n")
    assert gateway.returncode == 0
    result = await stack.await_record(
        names.results("visits"), lambda record: record.headers.get("ce_requestsource") == "gateway/paris-nord-1"
    )
    assert result.value["status"] == 201


async def test_the_upstream_gets_its_result_and_the_crm_the_change(
    stack: Stack, tmp_path: Path, people: list[sample.SamplePerson]
) -> None:
    upstream = await _example(stack, tmp_path, "upstream.py")
    output, _ = await upstream.communicate()
    visitor_id = output.decode().removeprefix("created visitor ").strip()
    crm = await _example(stack, tmp_path, "crm.py")

    async def in_table() -> bool:
        with closing(sqlite3.connect(tmp_path / "crm.db")) as table:
            try:
                rows = table.execute("select optin_type from optins where visitor_id = ?", (visitor_id,)).fetchall()
            except sqlite3.OperationalError:
                return False  # no table yet
        return rows == [("commercial",)]

    await eventually("the consent in the CRM's table", in_table)
    crm.terminate()
    await crm.wait()


_PRELUDE = """
import sqlalchemy as sa
from agents import crud
from agents.operation import Operations
from agents.families.parking.vehicles import VEHICLES
from schemas.model import Model
from schemas.types import Instant, Int64, Omittable, Text
from storage.table import Table
"""


def test_the_operations_of_the_example_are_declared() -> None:
    block = next(block for block in _blocks("python") if block.page == "docs/add-an-operation.md")
    shown = "\nprint(*(operation.name for operation in OPERATIONS))"
    done = subprocess.run(
        [sys.executable, "-c", _PRELUDE + block.code + shown], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == ["notes.create", "notes.list", "notes.update"], done.stderr


LINK = re.compile(r"\]\(([^)#\s]+)?(#[^)\s]+)?\)")


@pytest.mark.parametrize("page", list(dict.fromkeys(PAGES)), ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files_and_headings(page: Path) -> None:
    for target, anchor in LINK.findall(page.read_text()):
        if target.startswith(("http:", "https:")):
            continue
        file = (page.parent / target).resolve() if target else page
        assert file.exists(), f"{page.name} links to {target}"
        if anchor:
            assert anchor[1:] in anchors(file), f"{page.name} links to {target}{anchor}"


FOLDERS = {file.name for file in ROOT.iterdir() if file.is_dir() and not file.name.startswith(".")}
CREATED = {"agents/families/parking/notes.py", "schemas/releases/0.2.0"}
"""Files that a reader of the pages creates."""
TEST_NAME = re.compile(r"test_\w+(\.py)?")


def _inline_code(page: Path) -> Iterator[str]:
    for token in MarkdownIt().enable("table").parse(page.read_text()):
        yield from (child.content for child in token.children or () if child.type == "code_inline")


def _tests() -> set[str]:
    """The names of all test functions, and of the files that have them."""
    files = [file for folder in ("tests", "interop") for file in (ROOT / folder).rglob("test_*.py")]
    functions = (re.findall(r"^(?:async )?def (test_\w+)", file.read_text(), re.MULTILINE) for file in files)
    return {file.name for file in files}.union(*functions)


@pytest.mark.parametrize("page", list(dict.fromkeys(PAGES)), ids=lambda page: str(page.relative_to(ROOT)))
def test_files_and_tests_that_a_page_names_exist(page: Path) -> None:
    named = set(_inline_code(page))
    paths = {code for code in named if "/" in code and code.partition("/")[0] in FOLDERS}
    assert {path for path in paths - CREATED if not list(ROOT.glob(path))} == set()
    assert {code for code in named if TEST_NAME.fullmatch(code)} <= _tests()
