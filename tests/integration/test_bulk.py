"""`visitor import` applies the rows of a file once, and `visitor export` writes what it can read."""

import asyncio
import csv
import io
import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import sqlalchemy as sa

from runtime.bulk import Format, Importable, exporting, importing
from runtime.bulk.importing import Summary
from runtime.command import retry_until_available
from tests.support import data, terminal
from tests.support.stack import Stack
from tests.support.terminal import Terminal

Done = subprocess.CompletedProcess[str]


def _write(file: Path, rows: list[dict[str, Any]]) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def _reports(done: Done) -> list[dict[str, Any]]:
    return [json.loads(line) for line in done.stdout.splitlines()]


async def _export(stack: Stack, resource: str, *arguments: str) -> str:
    done = await stack.command("export", resource, *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


async def test_an_import_applies_valid_rows_and_reports_refused_ones(
    stack: Stack, client: httpx.AsyncClient, tmp_path: Path
) -> None:
    pc_code = (await data.create(client, "/centers", data.center()))["pcCode"]
    taken = await data.create(client, "/visitors", data.visitor(pc_code))
    rows = [data.visitor(pc_code) for _ in range(3)]
    refused = [
        data.visitor(pc_code, email=taken["email"]),
        data.visitor("FR-T-ABSENT"),
        data.visitor(pc_code, gender=1),
    ]
    file = _write(tmp_path / "visitors.jsonl", [*rows[:2], *refused, rows[2]])

    done = await stack.command("import", "visitors", str(file))
    assert done.returncode == 1
    assert "3 rows are applied, 3 are refused." in done.stderr
    reports = {report["line"]: report for report in _reports(done)}
    errors = {line: [(entry["code"], entry["field"]) for entry in report["errors"]] for line, report in reports.items()}
    assert errors == {
        3: [("email_taken", "email")],
        4: [("center_not_found", "acquisitionPcCode")],
        5: [("not_allowed", "gender")],
    }
    assert {line: report["status"] for line, report in reports.items()} == {3: 409, 4: 400, 5: 400}
    assert [reports[line]["row"] for line in (3, 4, 5)] == refused
    stored = await stack.rows("select email, origin_type from visitors where acquisition_pc_code = :code", code=pc_code)
    assert {tuple(row) for row in stored if row.email != taken["email"]} == {(row["email"], "import") for row in rows}


async def test_a_repeated_import_applies_nothing_twice(stack: Stack, client: httpx.AsyncClient, tmp_path: Path) -> None:
    owner = await data.visitor_with_vehicle(client)
    plates = [data.new_plate() for _ in range(20)]
    lines = [f"{owner['visitorId']},{plate},true" for plate in plates]
    file = tmp_path / "vehicles.csv"
    file.write_text("\n".join(["visitorId,licensePlate,color", *lines, ""]))
    for text in ("20 rows are applied, 0", "20 rows are applied (20 of them by an earlier run), 0"):
        done = await stack.command("import", "vehicles", str(file))
        assert (done.returncode, done.stdout) == (0, "")
        assert text in done.stderr
    stored = await stack.rows("select license_plate from vehicles where visitor_id = :id", id=owner["visitorId"])
    assert sorted(row.license_plate for row in stored) == sorted([owner["licensePlate"], *plates])


async def test_an_import_that_is_interrupted_on_its_terminal_is_resumed_by_the_same_command(
    stack: Stack, client: httpx.AsyncClient, tmp_path: Path
) -> None:
    owner = await data.visitor_with_vehicle(client)
    plates = [data.new_plate() for _ in range(20)]
    rows = [{"visitorId": owner["visitorId"], "licensePlate": plate} for plate in plates]
    file = _write(tmp_path / "vehicles.jsonl", rows)
    async with stack.engine.begin() as conn:
        # Nothing can be applied while the visitor is locked.
        await conn.execute(
            sa.text("select 1 from visitors where visitor_id = :id for update"), {"id": owner["visitorId"]}
        )
        async with terminal.running(["import", "vehicles", str(file)], stack.environment()) as shown:
            await shown.await_text("importing vehicles")
            await stack.await_lock_wait()
            shown.interrupt()
            assert await shown.wait() == 130
        _ended_with(shown, "Interrupted. Run the same command to resume.")

    done = await stack.command("import", "vehicles", str(file))
    # A pipe gets no progress bar.
    assert re.fullmatch(r"20 rows are applied( \(\d+ of them by an earlier run\))?, 0 are refused.\n", done.stderr)
    assert done.returncode == 0
    stored = await stack.rows("select license_plate from vehicles where visitor_id = :id", id=owner["visitorId"])
    assert sorted(row.license_plate for row in stored) == sorted([owner["licensePlate"], *plates])


def _ended_with(shown: Terminal, last_line: str) -> None:
    """A terminal is as it was, and the command says what to do."""
    assert shown.output.endswith(f"{last_line}\r\n")
    assert "Traceback" not in shown.output
    assert shown.is_clean


async def test_the_optins_of_a_visitor_are_applied_in_the_order_of_the_file(
    stack: Stack, client: httpx.AsyncClient, tmp_path: Path
) -> None:
    owner = await data.visitor_with_vehicle(client)
    optin = {"visitorId": owner["visitorId"], "optinType": "loyalty", "optinChannel": "email"}
    states = [True, False, True, True, False]
    file = _write(tmp_path / "optins.ndjson", [optin | {"isActive": state} for state in states])
    done = await stack.command("import", "optins", str(file))
    assert done.returncode == 0, done.stderr
    stored = await stack.rows(
        "select optin_date is not null as consents from optins where visitor_id = :id order by optin_id",
        id=owner["visitorId"],
    )
    assert [row.consents for row in stored] == states


async def test_an_export_has_all_rows_as_the_api_answers_them(stack: Stack, client: httpx.AsyncClient) -> None:
    owner = await data.visitor_with_vehicle(client)
    answer = (await client.get(f"/visitors/{owner['visitorId']}")).json()["data"]
    exported = [json.loads(line) for line in (await _export(stack, "visitors")).splitlines()]
    assert answer in exported
    ids = [row["visitorId"] for row in exported]
    assert ids == sorted(ids)
    assert len(ids) == (await stack.rows("select count(*) from visitors"))[0][0]

    table = csv.DictReader(io.StringIO(await _export(stack, "vehicles", "--format", "csv")))
    row = next(row for row in table if row["licensePlate"] == owner["licensePlate"])
    assert row["visitorId"] == owner["visitorId"]
    assert (row["deletionDate"], row["vehicleId"]) == ("", str(owner["vehicleId"]))


async def test_an_export_that_is_interrupted_on_its_terminal_leaves_no_file(
    stack: Stack, client: httpx.AsyncClient, tmp_path: Path
) -> None:
    owner = await data.visitor_with_vehicle(client)
    vehicles = f"/visitors/{owner['visitorId']}/vehicles"
    for name in ("v" * 100, "w" * 100):
        await asyncio.gather(*(data.create(client, vehicles, data.vehicle(name=name)) for _ in range(20)))
    output = tmp_path / "vehicles.jsonl"
    arguments = ["export", "vehicles", "--output", str(output)]
    with _slow_disk(tmp_path / "vehicles.jsonl.part") as drain:
        async with terminal.running(arguments, stack.environment()) as shown:
            await shown.await_text("0/", await shown.await_text("exporting vehicles"))
            shown.interrupt()
            await shown.await_text("^C")  # The terminal shows it after it has sent the signal.
            drain()
            assert await shown.wait() == 130
    _ended_with(shown, "Interrupted. Run the same command to begin again.")
    assert await asyncio.to_thread(os.listdir, tmp_path) == []

    done = await stack.command(*arguments)
    assert re.fullmatch(r"Exported \d+ rows of vehicles.\n", done.stderr)  # A pipe gets no progress bar.
    assert len(output.read_text().splitlines()) > 40


@contextmanager
def _slow_disk(file: Path) -> Iterator[Callable[[], None]]:
    """A file to which nothing can be written until the function is called: a pipe that is full."""
    os.mkfifo(file)
    reader = os.open(file, os.O_RDONLY | os.O_NONBLOCK)
    writer = os.open(file, os.O_WRONLY | os.O_NONBLOCK)
    with suppress(BlockingIOError):
        while True:
            os.write(writer, bytes(2**16))

    def drain() -> None:
        os.close(writer)
        with suppress(BlockingIOError):
            while os.read(reader, 2**16):
                pass

    try:
        yield drain
    finally:
        os.close(reader)


async def test_an_import_reads_what_an_export_writes(stack: Stack, client: httpx.AsyncClient, tmp_path: Path) -> None:
    owner = await data.visitor_with_vehicle(client)
    optin = {"optinType": "center", "optinChannel": "sms", "isActive": True}
    await data.create(client, f"/visitors/{owner['visitorId']}/optins", optin)
    for resource in ("visitors", "vehicles", "optins"):
        file = tmp_path / f"{resource}.csv"
        table = exporting.TABLES[resource]
        await exporting.run(stack.database, table, Format.csv, file, retry_until_available)
        header, *rows = file.read_text().splitlines()
        file.write_text("\n".join([header, *(row for row in rows if owner["visitorId"] in row)]))
        assert importing.check(Importable(resource), file) == Summary(applied=1)
