"""The code in README.md and docs/ works as a reader meets it: `python` and `sh` blocks are run against an installation
with the sample data, `json` blocks are JSON. Blocks of other languages are shown only.
"""

import asyncio
import json
import re
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import pytest_asyncio
from markdown_it import MarkdownIt

from runtime.dev import sample
from tests.support.stack import Stack, eventually
from topics import names

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md")), *sorted(ROOT.glob("*.md"))]
FOLLOWS = re.compile(r"visitor consume (\S+)")


@dataclass(frozen=True)
class Block:
    page: str
    line: int
    language: str
    code: str

    @property
    def file_name(self) -> str | None:
        """The name under which a reader is told to save a program: its first line."""
        match = re.match(r"# (\w+\.py)\n", self.code)
        return match[1] if match else None


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
    """An empty folder in which a reader works, with `.venv/bin/visitor` and `.venv/bin/python`."""
    folder = tmp_path_factory.mktemp("reader")
    programs = folder / ".venv" / "bin"
    programs.mkdir(parents=True)
    for name, arguments in (("visitor", "-m runtime.cli"), ("python", "")):
        program = programs / name
        program.write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} {arguments} "$@"\n')
        program.chmod(0o755)
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
    return subprocess.run(
        ["bash", "-c", command], cwd=reader, env=stack.environment(), capture_output=True, text=True, check=False,
        timeout=60,
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


async def _start(stack: Stack, reader: Path, block: Block, *arguments: str) -> asyncio.subprocess.Process:
    assert block.file_name is not None
    (reader / block.file_name).write_text(_here(stack, block.code))
    return await asyncio.create_subprocess_exec(
        ".venv/bin/python", block.file_name, *arguments, cwd=reader, env=stack.environment()
    )


def _program(name: str) -> Block:
    return next(block for block in _blocks("python") if block.file_name == name)


async def _new_result(stack: Stack, family: str, source: str) -> int:
    record = await stack.await_record(
        names.results(family), lambda record: record.headers.get("ce_requestsource") == source
    )
    return int(record.value["status"])


async def test_the_first_visit_is_stored(stack: Stack, reader: Path, people: list[sample.SamplePerson]) -> None:
    process = await _start(stack, reader, _program("first_visit.py"))
    assert await process.wait() == 0
    assert await _new_result(stack, "visits", "gateway/paris-nord-1") == 201


async def test_the_consent_and_the_checkin_are_stored_and_the_crm_has_the_consent(
    stack: Stack, reader: Path, people: list[sample.SamplePerson], client: httpx.AsyncClient
) -> None:
    person = next(person for person in people if person.pc_code == "FR-SC-4TEMPS")
    services = (await client.get("/services", params={"pcCode": person.pc_code})).json()["data"]
    program = _program("consent_and_checkin.py")
    own_service = Block(
        program.page,
        program.line,
        "python",
        program.code.replace('"serviceId": 1', f'"serviceId": {services[0]["serviceId"]}'),
    )
    process = await _start(stack, reader, own_service, person.visitor_id, person.barcode)
    assert await process.wait() == 0
    assert await _new_result(stack, "optins", "crm/loyalty-eu") == 201
    assert await _new_result(stack, "checkins", "kiosk/4temps-1") == 201

    schemas = await asyncio.create_subprocess_exec(".venv/bin/visitor", "schemas", "schemas-of-visitor", cwd=reader)
    assert await schemas.wait() == 0
    crm = await _start(stack, reader, _program("crm.py"))

    async def in_table() -> bool:
        if not (reader / "crm.db").exists():
            return False
        with sqlite3.connect(reader / "crm.db") as table:
            try:
                rows = table.execute("select optin from optins").fetchall()
            except sqlite3.OperationalError:
                return False  # no table yet
        return any(json.loads(optin)["visitorId"] == person.visitor_id for (optin,) in rows)

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


def test_every_program_in_the_docs_is_run_by_a_test() -> None:
    programs = {block.file_name for block in _blocks("python") if block.page != "docs/add-an-operation.md"}
    assert programs == {"first_visit.py", "consent_and_checkin.py", "crm.py"}


LINK = re.compile(r"\]\(([^)#\s]+)?(#[^)\s]+)?\)")


@pytest.mark.parametrize("page", list(dict.fromkeys(PAGES)), ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files_and_headings(page: Path) -> None:
    for target, anchor in LINK.findall(page.read_text()):
        if target.startswith(("http:", "https:")):
            continue
        file = (page.parent / target).resolve() if target else page
        assert file.exists(), f"{page.name} links to {target}"
        if anchor:
            assert anchor[1:] in _anchors(file), f"{page.name} links to {target}{anchor}"


def _anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
