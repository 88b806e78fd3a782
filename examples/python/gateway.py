"""A parking gateway. It sends a visit for each line of its input: `entry <licence plate>` or `exit <licence plate>`.

A visit waits on disk until the broker has acknowledged it. So no visit is lost while the broker is away or after this
program was killed. A visit that is sent twice has the same id both times, and the service stores it once.
"""

import json
import os
import queue
import sqlite3
import sys
import threading
from datetime import UTC, datetime
from uuid import uuid4

from confluent_kafka import KafkaError, KafkaException, Message, Producer

KAFKA = os.environ.get("KAFKA_BOOTSTRAP", "127.0.0.1:9092")
DATABASE = os.environ.get("DATABASE", "gateway.db")
TOPIC = "visitor.visits.requests"
SOURCE = "gateway/paris-nord-1"
CENTER = "FR-SC-4TEMPS"

Visit = tuple[int, str, str, str]  # position, id, plate, value


def open_buffer() -> sqlite3.Connection:
    buffer = sqlite3.connect(DATABASE)
    buffer.execute("pragma journal_mode = wal")
    buffer.execute(
        "create table if not exists visits"
        " (position integer primary key autoincrement, id text not null, plate text not null, value text not null)"
    )
    return buffer


def read_input(arrivals: "queue.Queue[bool]") -> None:
    """Write each line of the input to the buffer. True in `arrivals` means a new visit, False the end of the input."""
    buffer = open_buffer()
    for line in sys.stdin:
        match line.split():
            case [("entry" | "exit") as visit_type, plate]:
                body = {"licensePlate": plate, "pcCode": CENTER, "visitDate": datetime.now(UTC).isoformat()}
                value = json.dumps({"path": {"visitType": visit_type}, "body": body})
                with buffer:
                    buffer.execute(
                        "insert into visits (id, plate, value) values (?, ?, ?)", (str(uuid4()), plate, value)
                    )
                arrivals.put(True)
            case _:
                print(f"neither an entry nor an exit: {line.strip()}", file=sys.stderr)
    arrivals.put(False)


def send_buffered(buffer: sqlite3.Connection, producer: Producer) -> None:
    """Send the visits in the buffer, oldest first, and delete each one when the broker has acknowledged it."""
    for visit in buffer.execute("select position, id, plate, value from visits order by position").fetchall():
        send(producer, visit)
        with buffer:
            buffer.execute("delete from visits where position = ?", visit[:1])


def send(producer: Producer, visit: Visit) -> None:
    """Wait until the broker has acknowledged the visit, for as long as that takes."""
    _, visit_id, plate, value = visit
    errors: list[KafkaError] = []

    def on_delivery(error: KafkaError | None, _: Message) -> None:
        if error:
            errors.append(error)

    producer.produce(
        TOPIC,
        key=plate,  # visits with the same key are applied in order
        value=value,
        headers={
            "ce_specversion": "1.0",
            "ce_id": visit_id,  # the idempotency key
            "ce_type": "visitor.visits.create",  # the operation
            "ce_source": SOURCE,
            "content-type": "application/json",
        },
        on_delivery=on_delivery,
    )
    producer.flush()
    if errors:
        raise KafkaException(errors[0])


def main() -> None:
    # message.timeout.ms 0: the producer retries without a limit.
    producer = Producer({"bootstrap.servers": KAFKA, "enable.idempotence": True, "message.timeout.ms": 0})
    buffer = open_buffer()
    arrivals: queue.Queue[bool] = queue.Queue()
    threading.Thread(target=read_input, args=(arrivals,), daemon=True).start()
    send_buffered(buffer, producer)  # what an earlier run left
    while arrivals.get():
        send_buffered(buffer, producer)


if __name__ == "__main__":
    main()
