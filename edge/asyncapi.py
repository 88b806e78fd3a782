"""The AsyncAPI 3.0 document of all topics: what senders and consumers exchange with the service."""

from collections.abc import Iterator
from typing import Any, get_args

from pydantic import BaseModel

from agents.catalogue import Catalogue, Operation
from agents.operation import pascal_case
from edge import components, registry
from edge.components import Components
from edge.examples import Examples
from schemas.changes import Action, Change
from schemas.faults import Errors
from schemas.model import Model
from topics import avro, names
from topics.envelope import AVRO, EXPIRY_TIME, ID_LIMIT, IF_MATCH, JSON, MORE, PREFIX, REVISION, SOURCE
from topics.settings import KafkaSettings

Document = dict[str, Any]

AVRO_FORMAT = "application/vnd.apache.avro;version=1.9.0"
_BINDING = "0.5.0"
_ABOUT = """The Kafka topics of the visitor service. Headers are CloudEvents 1.0 in Kafka's binary content mode.

- A sender writes requests that change something to the request topic of their family, and reads to `visitor.queries`.
- The results are on the results topic of the family, or where the sender waits for them.
- Every change of an entity is on the change topic of its resource.
- A message that cannot be processed is copied to `visitor.dead-letters`.

Values are JSON or, in Confluent's wire format, Avro. The payloads of requests and results are shown as JSON; each
message links to its Avro schema in the registry. Changes are always Avro.

[/docs](/docs) describes the same operations over HTTP."""
_INFO: Document = {"title": "Visitor service", "version": "1", "description": _ABOUT}
_SERVER: Document = {
    "host": "{bootstrap}",
    "protocol": "kafka",
    "variables": {"bootstrap": {"default": "127.0.0.1:9092", "description": "The bootstrap servers."}},
}
_EXAMPLES = Examples({})
_DEAD_LETTER = "dead-letter"


def describe(catalogue: Catalogue, kafka: KafkaSettings) -> Document:
    """The AsyncAPI document as a dict."""
    schemas = Components(catalogue)
    messages = dict(_messages(catalogue, schemas))
    document = {
        "asyncapi": "3.0.0",
        "info": _INFO | {"tags": [{"name": family} for family in catalogue.families]},
        "defaultContentType": JSON,
        "servers": {"kafka": _SERVER},
        "channels": _channels(catalogue, kafka),
        "operations": dict(_operations(catalogue)),
    }
    used = components.used(schemas.schemas, {"messages": messages})
    return document | {"components": {"messages": messages, "schemas": used}}


def _channels(catalogue: Catalogue, kafka: KafkaSettings) -> Document:
    """The channels of all topics by their names, and one of each family for replies at an address that the sender
    chooses.

    If all families had the same channel for replies, each operation would refer to a channel with the messages of all
    operations. Tools that replace references by copies, such as AsyncAPI's parser, would need minutes for that."""
    channels: Document = {
        spec.name: {"address": spec.name, "messages": {}, "bindings": {"kafka": _topic_binding(spec)}}
        for spec in catalogue.topics(kafka)
    }
    for family in catalogue.families:
        channels[_replies(family)] = {
            "address": None,
            "description": f"Replies of the family {family} on the topic that the header reply-to names.",
            "messages": {},
        }
    for operation in catalogue.operations:
        family = catalogue.family_of[operation.name]
        channels[catalogue.topic_of[operation.name]]["messages"][operation.name] = _component(operation.name)
        for channel in (names.results(family), names.REPLIES, _replies(family)):
            channels[channel]["messages"][operation.name] = _component(f"{operation.name}.result")
    for table in catalogue.tables:
        channel = channels[names.changes(table.family, table.resource)]
        channel["messages"][table.resource] = _component(f"{table.resource}.change")
    channels[names.DEAD_LETTERS]["messages"][_DEAD_LETTER] = _component(_DEAD_LETTER)
    return channels


def _replies(family: str) -> str:
    return f"{family}.replies"


def _topic_binding(spec: names.TopicSpec) -> Document:
    return {
        "topic": spec.name,
        "partitions": spec.partitions,
        "replicas": spec.replication,
        "topicConfiguration": {
            "cleanup.policy": [spec.config["cleanup.policy"]],
            "retention.ms": int(spec.config["retention.ms"]),
            "max.message.bytes": int(spec.config["max.message.bytes"]),
        },
        "bindingVersion": _BINDING,
    }


def _operations(catalogue: Catalogue) -> Iterator[tuple[str, Document]]:
    """From the service's point of view: it receives requests, and sends results, changes and dead letters."""
    for operation in catalogue.operations:
        yield operation.name, _receive(catalogue, operation)
    for family in catalogue.families:
        yield f"{family}.results", _send(names.results(family), f"Results of the family {family}", family)
    for table in catalogue.tables:
        topic = names.changes(table.family, table.resource)
        yield f"{table.resource}.changes", _send(topic, f"Changes of the resource {table.resource}", table.family)
    yield f"{_DEAD_LETTER}s", _send(names.DEAD_LETTERS, "Messages that could not be processed")


def _receive(catalogue: Catalogue, operation: Operation) -> Document:
    topic, family = catalogue.topic_of[operation.name], catalogue.family_of[operation.name]
    replies = f"#/channels/{_replies(family)}"
    condition = ", unless the request has this header." if operation.is_query else " also."
    description: Document = {
        "action": "receive",
        "channel": {"$ref": f"#/channels/{topic}"},
        "summary": operation.summary,
        "tags": [{"name": family}],
        "messages": [{"$ref": f"#/channels/{topic}/messages/{operation.name}"}],
        "reply": {
            "address": {
                "location": "$message.header#/reply-to",
                "description": f"The result is on {names.results(family)}{condition}",
            },
            "channel": {"$ref": replies},
            "messages": [{"$ref": f"{replies}/messages/{operation.name}"}],
        },
    }
    return description | {"description": operation.description} if operation.description else description


def _send(topic: str, summary: str, *tags: str) -> Document:
    return {
        "action": "send",
        "channel": {"$ref": f"#/channels/{topic}"},
        "summary": summary,
        "tags": [{"name": tag} for tag in tags],
    }


def _messages(catalogue: Catalogue, schemas: Components) -> Iterator[tuple[str, Document]]:
    for operation in catalogue.operations:
        yield operation.name, _request(catalogue, operation, schemas)
        yield f"{operation.name}.result", _result(catalogue, operation, schemas)
    for table in catalogue.tables:
        yield f"{table.resource}.change", _change(table.resource, table.row, compacted=not table.are_events)
    yield _DEAD_LETTER, _dead_letter()


def _request(catalogue: Catalogue, operation: Operation, schemas: Components) -> Document:
    properties, required = {}, []
    for part, model in operation.request.parts().items():
        properties[part] = schemas.request(model) if part == "body" else schemas.parameters(model)
        if any(field.is_required() for field in model.model_fields.values()):
            required.append(part)
    payload = {"type": "object", "properties": properties, "required": required, "additionalProperties": False}
    key = "Requests with the same key are applied in order."
    if operation.partition_key:
        key += f" The HTTP edge uses {', or else '.join(operation.partition_key)}."
    headers = _REQUEST_HEADERS
    if catalogue.takes_if_match(operation):
        headers = headers | _IF_MATCH_HEADER
    return {
        "title": f"{operation.name}: request",
        "description": _link_to_avro(catalogue, f"{pascal_case(operation.name)}Request"),
        "contentType": JSON,
        "headers": _headers(_ce_headers(f"{PREFIX}{operation.name}") | headers),
        "payload": payload,
        "correlationId": _CORRELATION_ID,
        "examples": [_example(operation, schemas)],
        "bindings": {"kafka": _key_binding(key)},
    }


def _example(operation: Operation, schemas: Components) -> Document:
    headers = {
        "ce_specversion": "1.0",
        "ce_type": PREFIX + operation.name,
        "ce_id": "7c0e0f5e-6f0f-4a0e-9d0e-0b7a4b8f3f5d",
        "ce_source": "gateway/paris-nord-1",
        "content-type": JSON,
    }
    payload = {
        part: _EXAMPLES.body(operation) if part == "body" else _example_parameters(operation, part, model, schemas)
        for part, model in operation.request.parts().items()
    }
    return {"headers": headers, "payload": payload}


def _example_parameters(operation: Operation, part: str, model: type[BaseModel], schemas: Components) -> Document:
    schema = schemas.parameters(model)
    values = {
        name: _EXAMPLES.parameter(operation, part, name, required=name in schema.get("required", ()))
        for name in schema.get("properties", {})
    }
    return {name: value for name, value in values.items() if value is not None}


def _result(catalogue: Catalogue, operation: Operation, schemas: Components) -> Document:
    bodies = [schemas.reply(Errors), {"type": "null"}]
    example: Document = {"status": operation.status, "body": None}
    if operation.reply is not None:
        schema = schemas.reply(operation.reply)
        bodies.insert(0, schema)
        example["body"] = _EXAMPLES.reply(operation, schema, schemas)
    payload = {
        "type": "object",
        "properties": {
            "status": {"type": "integer", "description": "The status that HTTP would answer."},
            "body": {"anyOf": bodies},
        },
        "required": ["status", "body"],
    }
    headers = _ce_headers(f"{PREFIX}{operation.name}.result") | _RESULT_HEADERS
    if operation.name in catalogue.table_of:
        headers |= _REVISION_HEADER
    if operation.shape in ("page", "array"):
        headers |= _MORE_HEADER
    return {
        "title": f"{operation.name}: result",
        "description": _link_to_avro(catalogue, f"{pascal_case(operation.name)}Result"),
        "contentType": JSON,
        "headers": _headers(headers),
        "payload": payload,
        "correlationId": _CORRELATION_ID,
        "examples": [{"payload": example}],
        "bindings": {"kafka": _key_binding("The key of the request, or its id if it has none.")},
    }


def _change(resource: str, row: type[Model], *, compacted: bool) -> Document:
    description = "A record with the action deleted follows a deletion, without `after`."
    if compacted:
        description += " A record without a value (a tombstone) follows it."
    event_types = [f"{PREFIX}{resource}.{action}" for action in get_args(Action)]
    return {
        "title": f"{resource}: change",
        "description": description,
        "contentType": AVRO,
        "headers": _headers(_ce_headers(*event_types) | _CHANGE_HEADERS),
        "payload": {"schemaFormat": AVRO_FORMAT, "schema": avro.record_of(Change[row])},  # type: ignore[valid-type]
        "bindings": {"kafka": _key_binding(f"The id of the {resource}.")},
    }


def _dead_letter() -> Document:
    return {
        "title": "dead letter",
        "description": "The key, the value and the headers of the message as it was received, and the reason.",
        "headers": {"type": "object", "properties": _DEAD_LETTER_HEADERS, "required": [*_DEAD_LETTER_HEADERS][:-1]},
        "payload": {},
    }


_CORRELATION_ID: Document = {"location": "$message.header#/ce_id"}


def _text(description: str) -> Document:
    return {"type": "string", "description": description}


_REQUEST_HEADERS: Document = {
    "ce_id": _text("The idempotency key.") | {"maxLength": ID_LIMIT},
    "ce_source": _text("The sender, as `<kind>/<name>`.") | {"maxLength": ID_LIMIT},
    "content-type": _text(f"{JSON} or {AVRO}."),
    "reply-to": _text(
        "Where the sender waits for the result: a topic, `topic:partition`, or a partition of visitor.replies."
        " Spring's headers kafka_replyTopic and kafka_replyPartition mean the same."
    ),
    "correlation-id": _text("Repeated where the sender waits, as Spring's header kafka_correlationId is."),
    "traceparent": _text("Repeated in the result."),
    f"ce_{EXPIRY_TIME}": _text("When a read is of no use any more. Workers drop it then, without an answer.")
    | {"format": "date-time"},
}
_IF_MATCH_HEADER: Document = {
    IF_MATCH: _text("Revisions, comma-separated. Unless the record has one of them, the result is 412.")
}
_RESULT_HEADERS: Document = {
    "ce_id": _text("The ce_id of the request."),
    "ce_source": _text(f"`{SOURCE}/` and the ce_source of the request."),
    "ce_requestsource": _text("The ce_source of the request."),
    "ce_time": _text("When the result was published."),
    "content-type": _text("As in the request."),
    "correlation-id": _text("As in the request. On a results topic only if the request has no reply-to."),
    "traceparent": _text("As in the request."),
}
_REVISION_HEADER: Document = {REVISION: _text("The revision of the record. Absent in a repeated result.")}
_MORE_HEADER: Document = {MORE: _text("`true` if the next page has records, else `false`.")}
_CHANGE_HEADERS: Document = {
    "ce_id": _text("Identifies the change."),
    "ce_source": {"type": "string", "enum": [SOURCE]},
    "ce_time": _text("When the change was published."),
    "content-type": {"type": "string", "enum": [AVRO]},
    "traceparent": _text("As in the request that caused the change."),
}
_DEAD_LETTER_HEADERS: Document = {
    "error-code": _text("The reason as a word; docs/dead-letters.md lists all."),
    "error-message": _text("The reason for people."),
    "error-topic": _text("The topic of the message."),
    "error-partition": _text("The partition of the message."),
    "error-offset": _text("The offset of the message."),
    "error-timestamp": _text("When the broker stored the message, in milliseconds."),
    "error-cut": _text("`true` if the message was too large and has been cut."),
}


def _ce_headers(*event_types: str) -> Document:
    return {
        "ce_specversion": {"type": "string", "enum": ["1.0"]},
        "ce_type": {"type": "string", "enum": list(event_types)},
    }


def _headers(properties: Document) -> Document:
    return {"type": "object", "properties": properties, "required": ["ce_type"]}


def _key_binding(description: str) -> Document:
    return {"key": {"type": "string", "description": description}, "bindingVersion": _BINDING}


def _link_to_avro(catalogue: Catalogue, record: str) -> str:
    subject = f"{catalogue.topic_of_record[record]}-{avro.NAMESPACE}.{record}"
    return f"As Avro: [{subject}]({registry.PREFIX}/subjects/{subject}/versions/latest/schema)"


def _component(message: str) -> Document:
    return {"$ref": f"#/components/messages/{message}"}
