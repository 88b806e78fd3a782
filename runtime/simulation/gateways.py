"""The simulated gateways: send the messages of the plan when they are due."""

import asyncio
from collections.abc import Iterator
from typing import Any

from runtime.simulation.clock import Clock
from runtime.simulation.plan import Passage, Send
from runtime.simulation.report import Report
from topics import json, names
from topics.envelope import JSON, RequestHeaders
from topics.kafka import DeliveryError, Outgoing, Producer
from topics.supervision import Interrupted, interruptions_raised

BATCH = 500
"""Messages that are sent together if they are due."""
RETRY_SECONDS = 1.0


async def send_all(producer: Producer, plan: Iterator[Send], clock: Clock, run_id: str, report: Report) -> None:
    """Send the messages in order. While Kafka is unavailable, they wait, as in the buffer of a gateway."""
    for batch in _batches(plan, clock):
        await clock.sleep_until(batch[-1].at)
        await _send(producer, [_message(send.passage, clock, run_id) for send in batch])
        for send in batch:
            report.note_sent(request_id(run_id, send.passage), send.reason, send.at)


def request_id(run_id: str, passage: Passage) -> str:
    """The id of a passage's message. No other run has it."""
    return f"{run_id}-{passage.number}"


def _batches(plan: Iterator[Send], clock: Clock) -> Iterator[list[Send]]:
    """The messages that are due together; one that is due later is alone."""
    batch: list[Send] = []
    for send in plan:
        if batch and (send.at > clock.now() or len(batch) == BATCH):
            yield batch
            batch = []
        batch.append(send)
    if batch:
        yield batch


async def _send(producer: Producer, messages: list[Outgoing]) -> None:
    while True:
        try:
            with interruptions_raised():
                return await producer.send(messages)
        except (DeliveryError, Interrupted):
            await asyncio.sleep(RETRY_SECONDS)


def _message(passage: Passage, clock: Clock, run_id: str) -> Outgoing:
    person = passage.person
    field, identifier = ("licensePlate", person.plate) if passage.by_plate else ("barcode", person.barcode)
    body = {field: identifier, "pcCode": person.pc_code, "visitDate": clock.instant(passage.at)}
    value: dict[str, Any] = {"path": {"visitType": passage.visit_type}, "body": body}
    headers = RequestHeaders(request_id(run_id, passage), "visits.create", f"gateway/{passage.gateway}", JSON)
    key = identifier.encode()
    return Outgoing(names.requests("visits"), json.write(value), key, headers.encode(), partition_key=key)
