"""An upstream system. It registers a visitor with a consent, and waits for the result.

The request is Avro, with the schema from the registry. If no result arrives in time, the program sends the same request
again. A request that is sent twice has the same id both times; the service applies it once and repeats its result.
"""

import os
import sys
import time
from typing import Any
from uuid import uuid4

from confluent_kafka import Consumer, KafkaException, Message, Producer, TopicPartition
from confluent_kafka.schema_registry import SchemaRegistryClient, topic_record_subject_name_strategy
from confluent_kafka.schema_registry.avro import AvroDeserializer, AvroSerializer
from confluent_kafka.serialization import MessageField, SerializationContext

KAFKA = os.environ.get("KAFKA_BOOTSTRAP", "127.0.0.1:9092")
REGISTRY = os.environ.get("REGISTRY_URL", "http://127.0.0.1:8080/registry")
REQUESTS = "visitor.visitors.requests"
RESULTS = "visitor.visitors.results"
OPERATION = "visitors.createPartial"
RECORD = "visitor.VisitorsCreatePartialRequest"
SOURCE = "upstream/loyalty-eu"
ATTEMPTS = 3
SECONDS_PER_ATTEMPT = 20


def encode(registry: SchemaRegistryClient, request: dict[str, Any]) -> bytes | None:
    schema = registry.get_latest_version(f"{REQUESTS}-{RECORD}").schema
    settings = {"auto.register.schemas": False, "subject.name.strategy": topic_record_subject_name_strategy}
    serialize = AvroSerializer(registry, schema, conf=settings)
    return serialize(request, SerializationContext(REQUESTS, MessageField.VALUE))


def results_consumer() -> Consumer:
    """A consumer of the results that arrive from now on. It has no consumer group: each upstream reads all partitions
    and ignores the results of others."""
    consumer = Consumer({"bootstrap.servers": KAFKA, "group.id": "unused", "enable.auto.commit": False})
    partitions = consumer.list_topics(RESULTS, timeout=30).topics[RESULTS].partitions
    ends = []
    for number in partitions:
        _, end = consumer.get_watermark_offsets(TopicPartition(RESULTS, number), timeout=30)
        ends.append(TopicPartition(RESULTS, number, end))
    consumer.assign(ends)
    return consumer


def wait_for_result(consumer: Consumer, request_id: str) -> Message | None:
    deadline = time.monotonic() + SECONDS_PER_ATTEMPT
    while time.monotonic() < deadline:
        message = consumer.poll(1.0)
        if message is None:
            continue
        if message.error():
            raise KafkaException(message.error())
        headers = dict(message.headers() or ())
        if headers.get("ce_id") == request_id.encode() and headers.get("ce_requestsource") == SOURCE.encode():
            return message
    return None


def main() -> None:
    registry = SchemaRegistryClient({"url": REGISTRY})
    request_id = str(uuid4())
    visitor = {
        "firstName": "Ada",
        "email": f"ada-{request_id}@example.com",
        "countryCode": "FR",
        "preferredCenter": "FR-SC-4TEMPS",
        "optins": [{"optinType": "commercial", "optinChannel": "email", "isActive": True}],
    }
    value = encode(registry, {"body": visitor})
    headers = {
        "ce_specversion": "1.0",
        "ce_id": request_id,  # the idempotency key
        "ce_type": f"visitor.{OPERATION}",
        "ce_source": SOURCE,
        "content-type": "application/avro",
    }
    producer = Producer({"bootstrap.servers": KAFKA, "enable.idempotence": True})
    consumer = results_consumer()
    for _ in range(ATTEMPTS):
        producer.produce(REQUESTS, key=visitor["email"], value=value, headers=headers)
        producer.flush()
        if message := wait_for_result(consumer, request_id):
            break
    else:
        sys.exit(f"no result of request {request_id}")
    consumer.close()

    result = AvroDeserializer(registry)(message.value(), SerializationContext(RESULTS, MessageField.VALUE))
    if result["status"] != 201:
        sys.exit(f"{result['status']}: {result['body']['errors']}")
    print("created visitor", result["body"]["data"]["visitorId"])


if __name__ == "__main__":
    main()
