"""A CRM. It maintains a table of all optins from the topic of their changes.

Stop and start it at any time. The group's offsets are committed after the table, so a change may arrive twice: the
highest revision wins. To rebuild the table, delete its file and set GROUP to another name.
"""

import os
import signal
import sqlite3
import threading
from typing import Any

from confluent_kafka import Consumer, KafkaException, Message
from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroDeserializer
from confluent_kafka.serialization import MessageField, SerializationContext

KAFKA = os.environ.get("KAFKA_BOOTSTRAP", "127.0.0.1:9092")
REGISTRY = os.environ.get("REGISTRY_URL", "http://127.0.0.1:8080/registry")
DATABASE = os.environ.get("DATABASE", "crm.db")
GROUP = os.environ.get("GROUP", "crm-python")
TOPIC = "visitor.optins.changes.optin"
VALUE = SerializationContext(TOPIC, MessageField.VALUE)

CREATE = """
    create table if not exists optins (
        optin_id text primary key, revision integer not null, visitor_id text not null, optin_type text not null,
        optin_channel text not null, is_active boolean not null
    )
"""
UPSERT = """
    insert into optins values (:optin_id, :revision, :visitor_id, :optin_type, :optin_channel, :is_active)
    on conflict (optin_id) do update set revision = excluded.revision, visitor_id = excluded.visitor_id,
        optin_type = excluded.optin_type, optin_channel = excluded.optin_channel, is_active = excluded.is_active
    where excluded.revision > revision
"""


def apply(table: sqlite3.Connection, optin_id: str, change: dict[str, Any] | None) -> None:
    """`change` is None if the record is a tombstone: the optin was deleted, or its visitor was erased."""
    if change is None or change["after"] is None:
        table.execute("delete from optins where optin_id = ?", (optin_id,))
        return
    optin = change["after"]
    table.execute(
        UPSERT,
        {
            "optin_id": optin_id,
            "revision": change["revision"],
            "visitor_id": str(optin["visitorId"]),
            "optin_type": optin["optinType"],
            "optin_channel": optin["optinChannel"],
            "is_active": optin["isActive"],
        },
    )


def value_of(message: Message) -> bytes | None:
    if message.error():
        raise KafkaException(message.error())
    return message.value()


def main() -> None:
    stopping = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        # Not an exception, which is lost if it is raised inside a callback of the client.
        signal.signal(number, lambda *_: stopping.set())
    # A deserializer looks up the schema of each record by its id. So the topic may hold records of several releases.
    deserialize = AvroDeserializer(SchemaRegistryClient({"url": REGISTRY}))
    table = sqlite3.connect(DATABASE)
    table.execute(CREATE)
    consumer = Consumer(
        {
            "bootstrap.servers": KAFKA,
            "group.id": GROUP,
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
        }
    )
    consumer.subscribe([TOPIC])
    try:
        while not stopping.is_set():
            messages = consumer.consume(num_messages=500, timeout=1.0)
            if not messages:
                continue
            with table:  # one transaction
                for message in messages:
                    apply(table, message.key().decode(), deserialize(value_of(message), VALUE))
            consumer.commit(asynchronous=False)
            print(f"applied {len(messages)} changes", flush=True)
    finally:
        consumer.close()


if __name__ == "__main__":
    main()
