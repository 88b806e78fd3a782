"""Reads CSV as databases, spreadsheets and data frames write it."""

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from runtime.bulk.rows import Refusal, Row, UnusableFile
from schemas.faults import Fault, Invalid, refuse
from topics import json, names
from topics.envelope import InvalidMessage

_DELIMITERS = ",;\t"
"""The first of them is that of a file with one column. Spreadsheets in countries with a decimal comma write semicolons,
and databases tabs."""
_NAMED_DELIMITER = re.compile(r'"?sep=(.)"?')
"""A first line that tells Excel the delimiter."""
_INTEGER = re.compile(r"(-?[0-9]{1,19})(\.0{1,19})?")
"""Data frames write integers of a column with gaps as 1990.0."""
_FLAGS = {"true": True, "false": False, "t": True, "f": False, "1": True, "0": False}
"""t and f are PostgreSQL's, 1 and 0 MySQL's."""
_HOURS_ONLY = re.compile(r"[^:]*:[0-9:.]*[+-][0-9]{2}")
"""A time whose offset has no minutes, as PostgreSQL writes it."""
_NULL = r"\N"
"""MySQL's null, and that of PostgreSQL's text format."""
_SPREADSHEET_VALUE = re.compile(
    r"[+-]?[0-9]{1,19}([.,][0-9]{1,19})?E[+-][0-9]{1,4}"
    r"|#(N/A|REF!|VALUE!|NAME\?|DIV/0!|NUM!|NULL!)"
    r'|="[^"]*"'
)
"""A long number that was rounded, an error, or a formula: the original value is lost."""
_SHOWN = 40
"""Characters of an unknown column that are printed."""


class _Header(NamedTuple):
    """The columns of a file, and the number of lines up to their names."""

    columns: Sequence[str]
    delimiter: str
    lines: int


def read_csv(text: TextIO, file: Path, types: Mapping[str, type]) -> Iterator[Row | Refusal]:
    """The rows below the line with the names of the columns. Raises UnusableFile if that line is wrong."""
    csv.field_size_limit(names.VALUE_LIMIT)
    return _read_rows(text, _read_header(text, file, types), types)


def _read_header(text: TextIO, file: Path, types: Mapping[str, type]) -> _Header:
    delimiter = None
    lines = 0
    while line := text.readline(names.VALUE_LIMIT):
        lines += 1
        content = line.rstrip("\r\n")
        if match := _NAMED_DELIMITER.fullmatch(content):
            delimiter = match[1]
        elif content.strip():
            delimiter = delimiter or max(_DELIMITERS, key=content.count)
            columns = _columns(file, content, delimiter)
            _check_columns(file, columns, types)
            return _Header(columns, delimiter, lines)
    raise UnusableFile(f"{file} is empty. Its first line must have the names of the columns.")


def _columns(file: Path, line: str, delimiter: str) -> list[str]:
    """The names without those of empty columns at the end. Raises UnusableFile."""
    try:
        columns = [name.strip() for name in next(csv.reader([line], delimiter=delimiter, strict=True))]
    except csv.Error as error:
        raise UnusableFile(f"{file} has a first line that is not CSV: {error}.") from None
    while columns and not columns[-1]:
        columns.pop()
    return columns


def _check_columns(file: Path, columns: Sequence[str], types: Mapping[str, type]) -> None:
    """Raises UnusableFile."""
    if not columns:
        raise UnusableFile(f"{file} has no names of columns in its first line.")
    if "" in columns:
        number = columns.index("") + 1
        raise UnusableFile(f"{file} has no name for column {number}. If it is the index of a data frame, leave it out.")
    if unknown := [repr(name[:_SHOWN]) for name in columns if name not in types]:
        raise UnusableFile(f"{file} has unknown columns: {', '.join(unknown)}. The columns are: {', '.join(types)}.")
    if repeated := sorted({name for name in columns if columns.count(name) > 1}):
        raise UnusableFile(f"{file} has several columns with the same name: {', '.join(repeated)}.")


def _read_rows(text: TextIO, header: _Header, types: Mapping[str, type]) -> Iterator[Row | Refusal]:
    reader = csv.reader(text, delimiter=header.delimiter, strict=True)
    while True:
        first = reader.line_num + header.lines + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            lines = _lines(first, reader.line_num + header.lines)
            yield Refusal.by(Invalid("not_csv", f"{lines} is not CSV: {error}. Is the quote of a cell missing?"), first)
            continue
        if any(cells):
            yield _row_of(_lines(first, reader.line_num + header.lines), first, header, cells, types)


def _lines(first: int, last: int) -> str:
    return "The row" if first >= last else f"The row of lines {first} to {last}"


def _row_of(label: str, line: int, header: _Header, cells: Sequence[str], types: Mapping[str, type]) -> Row | Refusal:
    columns = header.columns
    if len(cells) < len(columns) or any(cells[len(columns) :]):
        message = f"{label} has {len(cells)} cells, the first line of the file {len(columns)}."
        return Refusal.by(Invalid("wrong_cell_count", message), line)
    if not all(map(_is_utf8, cells)):
        return Refusal.by(Invalid("not_utf8", f"{label} must be UTF-8."), line)
    texts = {name: cell for name, cell in zip(columns, cells, strict=False) if cell not in ("", _NULL)}
    fields = {name: _value(cell, types[name]) for name, cell in texts.items()}
    try:
        refuse(
            fault
            for name, cell in texts.items()
            if types[name] is str and (fault := _fault_of(name, cell, header)) is not None
        )
    except Fault as fault:
        return Refusal.by(fault, line, fields)
    return Row(line, fields)


def _is_utf8(cell: str) -> bool:
    try:
        cell.encode()
    except UnicodeEncodeError:
        return False
    return True


def _value(cell: str, field_type: type) -> Any:
    """The JSON value of a cell. Text that is no value of the type stays text, and validation reports it."""
    if field_type is bool:
        return _FLAGS.get(cell.lower(), cell)
    if field_type is int and (match := _INTEGER.fullmatch(cell)):
        number = int(match[1])
        return number if -(2**63) <= number < 2**63 else cell
    if field_type is datetime and _HOURS_ONLY.fullmatch(cell):
        return f"{cell}:00"
    if field_type in (list, dict):
        with suppress(InvalidMessage):
            return json.read(cell.encode())
    return cell


def _fault_of(name: str, text: str, header: _Header) -> Invalid | None:
    """Why a text is probably not what its author meant."""
    if _SPREADSHEET_VALUE.fullmatch(text):
        message = "A spreadsheet has replaced the value by a rounded number, an error or a formula."
        return Invalid("spreadsheet_value", message, field=name)
    delimiters = len(header.columns) - 1
    if delimiters > 1 and any(line.count(header.delimiter) >= delimiters for line in text.splitlines()[1:]):
        message = "The cell seems to contain other rows. Is the quote of a cell missing?"
        return Invalid("rows_in_cell", message, field=name)
    return None
