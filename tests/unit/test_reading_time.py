"""Whoever reads text from outside needs time in proportion to its length, so that no call holds up the others."""

import time
from collections.abc import Callable
from contextlib import suppress
from itertools import product
from typing import Any, NamedTuple

import pytest

from edge import app, codings, conditional, idempotency, preferences, registry, routing, translate
from runtime.bulk import csv_rows
from runtime.console import request_trace
from schemas import cards, emails, invisible, locales, plates, types
from schemas.faults import Fault
from topics import incoming, json, traceparent

LENGTH = 8_000
GROWTH = 4
BOUND = 2.5 * GROWTH
"""How much longer a text that is `GROWTH` times as long may take. Quadratic time would be 16 times as long."""
SHORTEST_SECONDS = 1e-3
"""Shorter times are too inexact to compare. A reader that needs less for `LENGTH` needs less than 0.1 s for 64 KiB, all
headers of a call, even if its time is quadratic."""


class Reader(NamedTuple):
    """`starts` are beginnings after which more of its expressions are tried. `limit` is the length of the longest text
    that it gets, unless that is more than `LENGTH`."""

    read: Callable[[str], Any]
    starts: tuple[str, ...] = ("",)
    limit: int = LENGTH


READERS = {
    "If-None-Match": Reader(lambda text: conditional.is_cached('"a"', [text]), ("", '"', '"a",', "W/")),
    "If-Match of a write": Reader(lambda text: conditional.expected_revisions([text]), ("", '"', '"1",')),
    "If-Match of a read": Reader(lambda text: conditional.require('"a"', [text]), ("", '"', '"a",')),
    "entity tag": Reader(conditional._ENTITY_TAG.match, ("", '"', '"a"')),
    "Prefer": Reader(lambda text: preferences.read([text]), ("", "a", "a=", 'a="', "a;")),
    "Idempotency-Key": Reader(lambda text: idempotency.read([text]), ("", '"')),
    "Accept-Encoding": Reader(codings.accepts_gzip, ("", "gzip", "gzip;", "gzip;q=", "gzip;q=0")),
    "Content-Encoding": Reader(lambda text: codings.decode(b"", text)),
    "Host": Reader(lambda text: app._LOOPBACK_HOST.fullmatch(text.encode()), ("", "localhost:")),
    "X-Request-Id": Reader(lambda text: app._VALID_CALL_ID.fullmatch(text.encode())),
    "traceparent": Reader(
        lambda text: traceparent.read_traceparent(text.encode()), ("", f"01-{'1' * 32}-{'1' * 16}-01-")
    ),
    "Authorization": Reader(registry._password),
    "path": Reader(lambda text: routing.normalize(text.encode()), ("", "%")),
    "query": Reader(lambda text: translate._parse_query(text.encode()), ("", "a=")),
    "parameter": Reader(lambda text: translate._parse_value(int, text), ("", "1.")),
    "id of the registry": Reader(registry._NUMBER.fullmatch),
    "reply-to": Reader(incoming._ADDRESS.fullmatch, ("", "-", "a:")),
    "if-match of a message": Reader(incoming._REVISION.fullmatch),
    "result": Reader(lambda text: json._RESULT.fullmatch(text.encode()), ("", '{"status":200,"body":')),
    "position": Reader(request_trace._POSITION.fullmatch, ("", "a:", "a:1:1@")),
    "integer in a cell": Reader(csv_rows._INTEGER.fullmatch, ("", "1.")),
    "time in a cell": Reader(csv_rows._HOURS_ONLY.fullmatch, ("", "2026-01-01 00:")),
    "text in a cell": Reader(csv_rows._SPREADSHEET_VALUE.fullmatch, ("", '="', "1E")),
    "text": Reader(cards.holds_card_number, ("", "4")),
    "name of a field": Reader(cards.without_digit_runs, ("", "4")),
    "email address": Reader(emails.is_address, ("", "a@"), types.TEXT_LIMIT),
    "local part": Reader(lambda text: emails.is_address(f"{text}@docomo.ne.jp"), ("", ".", "a"), types.TEXT_LIMIT),
    "plate": Reader(plates.plate_key),
    "invisible characters": Reader(invisible.without_invisible),
    "locale": Reader(locales.canonical, ("", "fr-")),
    "time": Reader(types._RFC3339.fullmatch, ("", "2026-01-01T00:00:00.")),
    "UUID": Reader(types.uuid_of),
}
REPEATED = (
    " ", "a", "1", "11111111111 ", "1-", "12345678-", ",", '"', "\\", '\\"', '"a",', "W/", ";", "=", "a=1&", "; ", ".",
    "a.", "%", "%41", ":", "@", "0", "é", "\xad", "}", "111111111111", "111 ",
)  # fmt: skip
ENDS = ("", "x", "\x00")


def _seconds(read: Callable[[str], Any], text: str, attempts: int) -> float:
    """CPU time of the fastest attempt, which was disturbed least."""

    def measure() -> float:
        started_at = time.thread_time()
        with suppress(Fault, ValueError):
            read(text)
        return time.thread_time() - started_at

    return min(measure() for _ in range(attempts))


@pytest.mark.parametrize("name", READERS)
def test_the_time_to_read_a_text_grows_no_faster_than_the_text(name: str) -> None:
    reader = READERS[name]
    for start, repeated, end in product(reader.starts, REPEATED, ENDS):
        short_text, long_text = (
            start + repeated * (length // len(repeated)) + end for length in (reader.limit // GROWTH, reader.limit)
        )
        if _seconds(reader.read, long_text, 1) > SHORTEST_SECONDS:
            short, long = _seconds(reader.read, short_text, 5), _seconds(reader.read, long_text, 5)
            assert long < max(BOUND * short, SHORTEST_SECONDS), (start, repeated, end)
