"""The topics of the service with their schemas, as this release declares them."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

from agents.catalogue import CATALOGUE
from agents.wire import Wire
from topics import avro, names
from topics.avro import Schema
from topics.settings import KafkaSettings

_HOUR = 3600 * 1000


class TopicList:
    """`topics` for the console, and `schemas` by their ids."""

    def __init__(self, kafka: KafkaSettings) -> None:
        self.schemas: dict[int, Schema] = {}
        by_topic: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
        for topic, schema in _topics_and_schemas(Wire(CATALOGUE)):
            schema_id = avro.schema_id(schema)
            self.schemas[schema_id] = schema
            by_topic[topic].append({"id": schema_id, "name": schema["name"]})
        self.topics = [
            {"name": spec.name, "role": role, "kept": _kept(spec), "schemas": by_topic[spec.name]}
            for role, spec in _with_roles(CATALOGUE.topics(kafka))
        ]


def _topics_and_schemas(wire: Wire) -> Iterator[tuple[str, Schema]]:
    for operation, schema in wire.requests.items():
        yield CATALOGUE.topic_of[operation], schema
    for operation, schema in wire.results.items():
        yield names.results(CATALOGUE.family_of[operation]), schema
    for table in CATALOGUE.tables:
        yield names.changes(table.family, table.resource), wire.changes[table.resource]


def _with_roles(specs: list[names.TopicSpec]) -> Iterator[tuple[str, names.TopicSpec]]:
    order = ("requests", "queries", "results", "replies", "changes", "dead letters")
    families = list(CATALOGUE.families)

    def position(spec: names.TopicSpec) -> tuple[int, int]:
        family = spec.name.split(".")[1]
        return order.index(_role(spec.name)), families.index(family) if family in families else 0

    for spec in sorted(specs, key=position):
        yield _role(spec.name), spec


def _role(topic: str) -> str:
    if topic == names.DEAD_LETTERS:
        return "dead letters"
    if ".changes." in topic:
        return "changes"
    return topic.rpartition(".")[2]


def _kept(spec: names.TopicSpec) -> str:
    """How long Kafka keeps a record."""
    if spec.config["cleanup.policy"] == "compact":
        return "newest of each key"
    hours = int(spec.config["retention.ms"]) / _HOUR
    number, unit = (hours / 24, "day") if hours >= 24 else (hours, "hour")
    return f"{number:g} {unit}" if number == 1 else f"{number:g} {unit}s"
