"""`visitor export`: writes the rows of a table to a file or to standard output."""

import asyncio
import csv
import io
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import sqlalchemy as sa
from rich.console import Console

from agents.catalogue import CATALOGUE
from runtime import progress
from runtime.bulk import Format
from runtime.operator_database import Retry, connected
from storage import statistics
from storage.settings import DatabaseSettings
from storage.table import Table
from topics import json

TABLES = {table.name: table for table in CATALOGUE.tables}
"""The tables that can be exported, by their names."""

_ROWS_PER_FETCH = 1_000

Encode = Callable[[dict[str, Any]], bytes]


async def run(
    settings: DatabaseSettings, table: Table[Any], file_format: Format, output: Path | None, retry: Retry
) -> int:
    """Write the rows of one snapshot in the order of their keys, and return their number. Their fields are those of
    the change topic. Raises WrongRevision, OSError."""
    async with connected(settings, retry) as database, database.connect() as connection:
        conn = await connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
        console = Console(stderr=True)
        with written(output) as stream, progress.bar(console) as bar:
            task = bar.add_task(f"exporting {table.name}", total=None)
            if console.is_terminal:
                bar.update(task, total=await statistics.rows(conn, table.name))
            encode, count = _encoder(file_format, table, stream), 0
            statement = sa.select(table.sql).order_by(table.columns[table.key])
            result = await conn.stream(statement, execution_options={"yield_per": _ROWS_PER_FETCH})
            async for rows in result.partitions():
                stream.write(b"".join(encode(table.to_row(row).model_dump()) for row in rows))
                count += len(rows)
                bar.update(task, completed=count)
                await asyncio.sleep(0)  # Ctrl-C ends the export here. The next rows may be in memory already.
    return count


@contextmanager
def written(output: Path | None) -> Iterator[BinaryIO]:
    """The stream of an export. A file gets its name when it is complete. Only its owner may read it, unless it replaces
    a file, whose mode it gets. Raises OSError."""
    if output is None:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    if output.exists() and not output.is_file():  # A pipe or a device.
        with output.open("wb") as stream:
            yield stream
        return
    file = output.resolve()  # A symbolic link stays one.
    unfinished = file.with_name(f"{file.name}.part")
    try:
        with open(unfinished, "wb", opener=_open_private) as stream:
            if file.exists():
                os.fchmod(stream.fileno(), file.stat().st_mode & 0o777)
            yield stream
        unfinished.replace(file)
    finally:
        unfinished.unlink(missing_ok=True)


def _open_private(path: str, flags: int) -> int:
    """Fails for a symbolic link, and for a file of somebody else."""
    descriptor = os.open(path, flags | os.O_NOFOLLOW, 0o600)
    os.fchmod(descriptor, 0o600)
    return descriptor


def _encoder(file_format: Format, table: Table[Any], stream: BinaryIO) -> Encode:
    if file_format is Format.jsonl:
        return lambda fields: json.write(fields) + b"\n"
    columns = [str(field.serialization_alias) for field in table.row.model_fields.values()]
    stream.write(_csv_line(columns))
    return partial(_csv_row, columns)


def _csv_row(columns: Sequence[str], fields: dict[str, Any]) -> bytes:
    return _csv_line([_cell(fields[name]) for name in columns])


def _csv_line(cells: Sequence[str]) -> bytes:
    line = io.StringIO()
    csv.writer(line).writerow(cells)
    return line.getvalue().encode()


def _cell(value: Any) -> str:
    """A value as text: as in JSON, but texts, times and ids without quotes, and null as an empty cell."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    return json.write(value).decode().strip('"')
