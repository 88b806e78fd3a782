"""A file of rows: CSV or JSON lines."""

import hashlib
import io
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from runtime.bulk import Format
from runtime.bulk.csv_rows import read_csv
from runtime.bulk.rows import Refusal, Row, UnusableFile
from schemas.faults import Invalid
from topics import json
from topics.envelope import InvalidMessage

_SUFFIXES = {".csv": Format.csv, ".jsonl": Format.jsonl, ".ndjson": Format.jsonl}
_DIGEST_BYTES = 16
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_OTHER_FILES = {
    b"\xff\xfe": "is UTF-16. Save it as UTF-8",
    b"\xfe\xff": "is UTF-16. Save it as UTF-8",
    b"\x1f\x8b": "is compressed. Decompress it with gunzip",
    b"PK\x03\x04": "is a spreadsheet or an archive. Save it as CSV UTF-8",
}
"""What files are that begin with these bytes, and what to do."""


class Source:
    """An open file. `digest` is that of its content, `lines` the number of its line breaks."""

    def __init__(self, file: Path, stream: BinaryIO) -> None:
        self._file = file
        self._format = format_of(file)
        self._stream = stream
        self._version = self._current_version()
        self._check_start()
        digest, self.lines = hashlib.blake2b(digest_size=_DIGEST_BYTES), 0
        while block := stream.read(2**20):
            digest.update(block)
            self.lines += block.count(b"\n")
        self.digest = digest.hexdigest()

    def rows(self, types: Mapping[str, type]) -> Iterator[Row | Refusal]:
        """The rows in order, with a refusal for each that cannot be read. `types` are the plain types of the fields. A
        null and an empty cell count as a field that was left out. Raises UnusableFile, also at later rows; OSError."""
        self._stream.seek(0)
        if self._format is Format.jsonl:
            return self._checked(_read_json_lines(self._stream))
        # surrogateescape: a cell that is not UTF-8 refuses its row, not the file. The wrapper would close the stream
        # when it is collected.
        self._text = io.TextIOWrapper(self._stream, encoding="utf-8-sig", errors="surrogateescape", newline="")
        return self._checked(read_csv(self._text, self._file, types))

    def _check_start(self) -> None:
        start = self._stream.read(4)
        self._stream.seek(0)
        for mark, advice in _OTHER_FILES.items():
            if start.startswith(mark):
                raise UnusableFile(f"{self._file} {advice}.")

    def _checked(self, rows: Iterator[Row | Refusal]) -> Iterator[Row | Refusal]:
        """A changed file has another digest, so that its rows would get ids of other rows."""
        for row in rows:
            self._require_unchanged()
            yield row
        self._require_unchanged()

    def _require_unchanged(self) -> None:
        if self._current_version() != self._version:
            raise UnusableFile(f"{self._file} was changed during the import. Rows of its former content are applied.")

    def _current_version(self) -> tuple[int, int]:
        status = os.fstat(self._stream.fileno())
        return status.st_size, status.st_mtime_ns


@contextmanager
def opened(file: Path) -> Iterator[Source]:
    """Raises UnusableFile, OSError."""
    format_of(file)
    if not file.is_file():
        raise UnusableFile(f"{file} must be a regular file, because it is read twice.")
    with file.open("rb") as stream:
        yield Source(file, stream)


def format_of(file: Path) -> Format:
    """The format by the suffix of the file's name. Raises UnusableFile."""
    try:
        return _SUFFIXES[file.suffix.lower()]
    except KeyError:
        raise UnusableFile(f"{file} must have one of the suffixes {', '.join(_SUFFIXES)}.") from None


def _read_json_lines(lines: BinaryIO) -> Iterator[Row | Refusal]:
    for number, line in enumerate(lines, 1):
        text = line.removeprefix(_BYTE_ORDER_MARK).strip()
        if text:
            yield _parse(number, text)


def _parse(number: int, text: bytes) -> Row | Refusal:
    try:
        fields = json.read(text)
    except InvalidMessage as error:
        return Refusal.by(Invalid(error.code, f"The line is not JSON: {error}"), number)
    if not isinstance(fields, dict):
        return Refusal.by(Invalid("not_an_object", "The line must be a JSON object."), number)
    return Row(number, {name: value for name, value in fields.items() if value is not None})
