"""The AsyncAPI document of the topics."""

from collections.abc import Iterator
from typing import Any

import jsonschema_rs
import pytest

from agents.answers import Answer
from agents.catalogue import CATALOGUE, Operation
from edge import asyncapi
from topics import names
from topics.envelope import CORRELATION, IF_MATCH, REVISION, RequestHeaders, change_headers
from topics.settings import KafkaSettings

KAFKA = KafkaSettings()
DOCUMENT = asyncapi.describe(CATALOGUE, KAFKA)
MESSAGES = DOCUMENT["components"]["messages"]


def _references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for item in value.values():
            yield from _references(item)
    elif isinstance(value, list):
        for item in value:
            yield from _references(item)


def _part(reference: str) -> Any:
    """The part of the document that a reference leads to. Raises KeyError."""
    part: Any = DOCUMENT
    for name in reference.removeprefix("#/").split("/"):
        part = part[name]
    return part


def _message(reference: dict[str, str]) -> Any:
    """The message that a channel or an operation refers to, in one step or in two."""
    message = _part(reference["$ref"])
    return _message(message) if "$ref" in message else message


def test_every_topic_is_a_channel_with_its_messages_and_its_configuration() -> None:
    for spec in CATALOGUE.topics(KAFKA):
        channel = DOCUMENT["channels"][spec.name]
        assert channel["address"] == spec.name
        assert channel["messages"]
        binding = channel["bindings"]["kafka"]
        assert (binding["topic"], binding["partitions"]) == (spec.name, KAFKA.partitions)
        assert binding["topicConfiguration"]["cleanup.policy"] == [spec.config["cleanup.policy"]]


def test_every_reference_leads_to_a_part_of_the_document() -> None:
    references = set(_references(DOCUMENT))
    assert references
    for reference in references:
        assert _part(reference)


@pytest.mark.parametrize("operation", CATALOGUE.operations, ids=lambda operation: operation.name)
def test_the_examples_of_an_operation_match_their_payloads(operation: Operation) -> None:
    for name in (operation.name, f"{operation.name}.result"):
        message = MESSAGES[name]
        schema = message["payload"] | {"components": DOCUMENT["components"]}
        validator = jsonschema_rs.Draft202012Validator(schema)
        assert [error.message for error in validator.iter_errors(message["examples"][0]["payload"])] == []


@pytest.mark.parametrize("operation", CATALOGUE.operations, ids=lambda operation: operation.name)
def test_a_request_and_its_reply_are_on_channels_that_have_their_messages(operation: Operation) -> None:
    description = DOCUMENT["operations"][operation.name]
    channel = _part(description["channel"]["$ref"])
    assert channel["address"] == CATALOGUE.topic_of[operation.name]
    assert _message(description["messages"][0]) == MESSAGES[operation.name]
    reply = description["reply"]
    assert _part(reply["channel"]["$ref"])["address"] is None
    assert _message(reply["messages"][0]) == MESSAGES[f"{operation.name}.result"]
    results = DOCUMENT["channels"][names.results(CATALOGUE.family_of[operation.name])]
    assert _message(results["messages"][operation.name]) == MESSAGES[f"{operation.name}.result"]


def test_a_result_has_the_documented_headers() -> None:
    request = RequestHeaders(
        "7c0e0f5e",
        "visits.list",
        source="gateway/paris-nord-1",
        traceparent="00-1-2-00",
        correlation=((CORRELATION, b"7"),),
    )
    headers = [*request.reply_headers(), *Answer(200, more=True).headers()]
    assert {name for name, _ in headers} == MESSAGES["visits.list.result"]["headers"]["properties"].keys()
    assert (
        dict(headers)["ce_type"].decode() in MESSAGES["visits.list.result"]["headers"]["properties"]["ce_type"]["enum"]
    )


def test_the_result_of_one_record_has_its_revision() -> None:
    for name, expected in (("centers.get", True), ("centers.update", True), ("centers.list", False)):
        assert (REVISION in MESSAGES[f"{name}.result"]["headers"]["properties"]) is expected


def test_only_the_request_that_writes_one_record_has_if_match() -> None:
    for name, expected in (("centers.update", True), ("centers.get", False), ("visits.create", False)):
        assert (IF_MATCH in MESSAGES[name]["headers"]["properties"]) is expected


def test_a_change_has_the_documented_headers_and_the_avro_schema_of_its_resource() -> None:
    message = MESSAGES["optin.change"]
    headers = dict(change_headers("7", "optin", "republished", "00-1-2-00"))
    assert headers.keys() == message["headers"]["properties"].keys()
    for name in ("ce_type", "ce_source", "content-type"):
        assert headers[name].decode() in message["headers"]["properties"][name]["enum"]
    assert message["payload"]["schemaFormat"] == "application/vnd.apache.avro;version=1.9.0"
    assert message["payload"]["schema"]["name"] == "OptinChange"
