"""The simulated CRM: reads all changes, and the requests and results of visits for the latencies of the report."""

from contextlib import suppress
from typing import Any, NoReturn

from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaError

from agents.catalogue import CATALOGUE
from agents.wire import Wire
from runtime.simulation.report import Report
from topics import json, names
from topics.envelope import InvalidMessage
from topics.supervision import Interrupted, interruptions_raised

REQUESTS, RESULTS = names.requests("visits"), names.results("visits")
VISITS = names.changes("visits", "visit")
TOPICS = (REQUESTS, RESULTS, *(topic.name for topic in CATALOGUE.change_topics))


async def follow(reader: AIOKafkaConsumer, report: Report) -> NoReturn:
    """Read until cancelled."""
    wire = Wire(CATALOGUE)
    while True:
        with suppress(KafkaError, Interrupted), interruptions_raised():
            for records in (await reader.getmany(timeout_ms=500)).values():
                for record in records:
                    _note(report, wire, record)


def _note(report: Report, wire: Wire, record: Any) -> None:
    if record.topic == REQUESTS:
        report.note_time("request", _id(record), record.timestamp)
    elif record.topic == RESULTS:
        with suppress(ValueError):  # a result in Avro is that of another sender
            status, _ = json.split_result(record.value)
            report.note_result(_id(record), status, record.timestamp)
    else:
        report.note_change(record.topic)
        if record.topic == VISITS and record.value is not None:
            with suppress(InvalidMessage):  # written by another release
                change = wire.codec.read(record.value)
                report.note_time("change", change["causedBy"], record.timestamp)


def _id(record: Any) -> str:
    return str(dict(record.headers).get("ce_id", b"").decode(errors="replace"))
