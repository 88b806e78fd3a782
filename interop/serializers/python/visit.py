"""Send a visit as Avro and read its result and its change, with Confluent's client and serializers for Python.

Arguments: a licence plate, a center and the time of the visit in microseconds. Prints the status and the two times."""

import json
import os
import sys
from uuid import uuid4

from confluent_kafka import Consumer, Producer
from confluent_kafka.schema_registry import SchemaRegistryClient, topic_record_subject_name_strategy
from confluent_kafka.schema_registry.avro import AvroDeserializer, AvroSerializer
from confluent_kafka.serialization import MessageField, SerializationContext

REQUESTS, RESULTS, CHANGES = "visitor.visits.requests", "visitor.visits.results", "visitor.visits.changes.visit"
BOOTSTRAP = os.environ["KAFKA_BOOTSTRAP"]

plate, center, visit_date = sys.argv[1], sys.argv[2], int(sys.argv[3])
request_id = str(uuid4())
registry = SchemaRegistryClient(
    {
        "url": os.environ["REGISTRY_URL"],
        "basic.auth.user.info": f"any:{os.environ['REGISTRY_KEY']}",
        # Without it, the client waits for ever. With it, the client repeats the call.
        "timeout": 10,
    }
)
schema = registry.get_latest_version(f"{REQUESTS}-visitor.VisitsCreateRequest").schema
serialize = AvroSerializer(
    registry, schema,
    conf={"auto.register.schemas": False, "subject.name.strategy": topic_record_subject_name_strategy},
)  # fmt: skip
deserialize = AvroDeserializer(registry)


def micros(moment):
    """Avro's timestamp-micros arrive as datetimes."""
    return round(moment.timestamp() * 1_000_000)


visit = {"path": {"visitType": "entry"}, "body": {"licensePlate": plate, "pcCode": center, "visitDate": visit_date}}
producer = Producer({"bootstrap.servers": BOOTSTRAP, "enable.idempotence": True})
producer.produce(
    REQUESTS,
    key=plate,
    value=serialize(visit, SerializationContext(REQUESTS, MessageField.VALUE)),
    headers={
        "ce_specversion": "1.0", "ce_id": request_id, "ce_type": "visitor.visits.create", "ce_source": "python",
        "content-type": "application/avro",
    },
)  # fmt: skip
producer.flush()

consumer = Consumer({"bootstrap.servers": BOOTSTRAP, "group.id": request_id, "auto.offset.reset": "earliest"})
consumer.subscribe([RESULTS, CHANGES])
result = change = None
while result is None or change is None:
    message = consumer.poll(1)
    if message is None:
        continue
    if message.error():
        raise RuntimeError(message.error())
    context = SerializationContext(message.topic(), MessageField.VALUE)
    if message.topic() == RESULTS and dict(message.headers())["ce_id"].decode() == request_id:
        result = deserialize(message.value(), context)
    if message.topic() == CHANGES:
        value = deserialize(message.value(), context)
        change = value if value["causedBy"] == request_id else change
consumer.close()
print(json.dumps([result["status"], micros(result["body"]["visitDate"]), micros(change["after"]["visitDate"])]))
