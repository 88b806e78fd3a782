"""JSON, Avro, and the configuration of topics."""

import shlex
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from unittest.mock import AsyncMock, Mock
from uuid import uuid4

import pytest
from aiokafka.errors import InvalidTimestampError
from aiokafka.partitioner import DefaultPartitioner

from agents.answers import Answer
from agents.catalogue import CATALOGUE
from agents.engine import tombstones
from agents.wire import Wire
from topics import admin, avro, json, names
from topics.acls import Acl
from topics.envelope import AVRO, JSON, InvalidMessage
from topics.kafka import describe, partition_of
from topics.settings import KafkaSettings

WIRE = Wire(CATALOGUE)


@pytest.mark.parametrize(
    ("value", "code"),
    [(b"\xff{}", "not_utf8"), (b"{", "not_json"), (b"NaN", "not_json"), (b"[" * 100_000, "not_json"), (b"", "not_json")]
)  # fmt: skip
def test_the_error_about_invalid_json_has_a_code(value: bytes, code: str) -> None:
    with pytest.raises(InvalidMessage) as refused:
        json.read(value)
    assert refused.value.code == code


def test_json_has_exact_decimals_and_times_in_utc() -> None:
    time = datetime(2024, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert json.write({"a": Decimal("1.10"), "t": time}) == b'{"a":1.10,"t":"2024-01-02T03:04:05Z"}'
    assert json.read(b"1.10") == Decimal("1.10")


async def test_a_configuration_that_was_just_altered_may_be_stale(monkeypatch: pytest.MonkeyPatch) -> None:
    """The partitions of a topic are not altered, so no time is lost for them."""
    stale, partitions = admin.Difference("t", "retention.ms", "1", "2"), admin.Difference("t", "partitions", "4", "2")
    differences = [[stale, partitions], [stale, partitions], [partitions], []]
    monkeypatch.setattr(admin, "_differences", AsyncMock(side_effect=differences))
    assert await admin._remaining(Mock(), [], ["t"]) == [partitions]


async def test_a_configuration_that_a_broker_does_not_take_over_is_a_difference(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    difference = admin.Difference("t", "retention.ms", "1", "2")
    monkeypatch.setattr(admin, "_differences", AsyncMock(return_value=[difference]))
    monkeypatch.setattr(admin, "STALE_SECONDS", 0.2)
    assert await admin._remaining(Mock(), [], ["t"]) == [difference]


def _visit(**body: Any) -> dict[str, Any]:
    return {"path": {"visitType": "entry"}, "body": {"pcCode": "FR-A-1", **body}}


@pytest.mark.parametrize("content_type", [JSON, AVRO])
def test_a_request_means_the_same_in_json_and_in_avro(content_type: str) -> None:
    operation = CATALOGUE.by_name["visits.create"]
    visit_date = datetime(2024, 1, 2, 3, 4, 5, tzinfo=UTC)
    value = WIRE.write_request(operation, content_type, _visit(barcode="b", visitDate=visit_date))
    request = operation.request.model_validate(WIRE.read_request(operation, content_type, value))
    assert request.body.visit_date == visit_date
    assert request.body.model_fields_set == {"barcode", "pc_code", "visit_date"}


def test_an_avro_patch_sets_the_fields_in_clear_to_null() -> None:
    operation = CATALOGUE.by_name["visitors.update"]
    written = {"path": {"visitorId": uuid4()}, "body": {"firstName": "A", "clear": ["phone"]}}
    read = WIRE.read_request(operation, AVRO, WIRE.write_request(operation, AVRO, written))
    request = operation.request.model_validate(read)
    assert request.body.sent_fields() == {"first_name": "A", "phone": None}


@pytest.mark.parametrize(
    ("corrupt", "code"),
    [
        (lambda value: value[:-1], "broken_avro"),
        (lambda value: value + b"x", "broken_avro"),
        (lambda value: b"\x00\x7f\xff\xff\xff" + value[5:], "unknown_schema"),
        (lambda value: b"\x01" + value[1:], "not_avro"),
        (lambda value: value[:3], "not_avro"),
    ],
)
def test_the_error_about_invalid_avro_has_a_code(corrupt: Any, code: str) -> None:
    operation = CATALOGUE.by_name["visits.create"]
    value = WIRE.write_request(operation, AVRO, _visit(barcode="bbbbbbb"))
    with pytest.raises(InvalidMessage) as refused:
        WIRE.read_request(operation, AVRO, corrupt(value))
    assert refused.value.code == code


@pytest.mark.parametrize("namespace", [{}, {"namespace": ""}, {"namespace": None}], ids=["absent", "empty", "null"])
def test_a_record_of_another_system_needs_no_namespace(namespace: dict[str, Any]) -> None:
    operation = CATALOGUE.by_name["visits.create"]
    wire, own = Wire(CATALOGUE), WIRE.requests["visits.create"]
    schema = {name: value for name, value in own.items() if name != "namespace"} | namespace
    assert avro.full_name(schema) == "VisitsCreateRequest"
    id_of_registry = 7
    wire.codec.add(id_of_registry, schema)
    value = WIRE.write_request(operation, AVRO, _visit(barcode="b"))
    read = wire.read_request(operation, AVRO, b"\x00" + id_of_registry.to_bytes(4, "big") + value[5:])
    assert operation.request.model_validate(read).body.barcode == "b"


def test_avro_can_encode_a_result_with_errors() -> None:
    operation = CATALOGUE.by_name["visits.create"]
    entry = {"code": "c", "type": "conflict", "field": None, "message": "m"}
    value = WIRE.write_result(operation, AVRO, Answer(409, {"errors": [entry]}))
    assert WIRE.read(AVRO, value) == {"status": 409, "body": {"errors": [entry]}}


def test_different_schemas_have_different_ids() -> None:
    schemas = [*WIRE.requests.values(), *WIRE.results.values(), *WIRE.changes.values()]
    assert len({avro.schema_id(schema) for schema in schemas}) == len({str(schema) for schema in schemas})


@pytest.mark.parametrize("key", [b"", b"a", b"e45934e1-5fd4-4651-b7bc-50c977a3b8c5"])
def test_a_key_has_the_partition_of_kafkas_default_partitioner(key: bytes) -> None:
    assert partition_of(key, 12) == DefaultPartitioner()(key, list(range(12)), [])


def test_the_error_about_a_wrong_clock_names_the_clock() -> None:
    """Kafka 4 refuses records of a clock that is an hour ahead, on topics that do not have `LogAppendTime` yet."""
    assert "clock" in describe(InvalidTimestampError())


def test_a_change_topic_leads_to_its_resource() -> None:
    topics = [names.changes("optins", "optin"), names.changes("centers", "center"), names.requests("visits")]
    assert CATALOGUE.resources_of(topics) == ["center", "optin"]


def test_change_topics_are_compacted_except_those_of_events() -> None:
    specs = CATALOGUE.topics(KafkaSettings(partitions=3, replication=2))
    specs_by_name = {spec.name: spec for spec in specs}
    assert specs_by_name["visitor.visitors.changes.visitor"].config["cleanup.policy"] == "compact"
    by_time = {name for name, spec in specs_by_name.items() if spec.config["cleanup.policy"] == "delete"}
    change_topics = {topic for topic, _ in CATALOGUE.change_topics}
    assert by_time & change_topics == {"visitor.visits.changes.visit", "visitor.checkins.changes.checkin"}
    assert {spec.partitions for spec in specs} == {3}
    assert {name for name, spec in specs_by_name.items() if "compression.type" in spec.config} == {names.DEAD_LETTERS}


@pytest.mark.parametrize("retention_days", [7, 28])
def test_every_topic_forgets_an_erased_visitor_before_the_deadline(retention_days: int) -> None:
    def duration(config: dict[str, str], name: str) -> timedelta:
        return timedelta(milliseconds=int(config[name]))

    for spec in CATALOGUE.topics(KafkaSettings(retention_days=retention_days)):
        segment = duration(spec.config, "segment.ms")
        if spec.config["cleanup.policy"] == "delete":
            lifetime = names.record_lifetime(duration(spec.config, "retention.ms"), segment)
        else:
            assert segment < tombstones.REPEAT_AFTER
            lifetime = tombstones.REPEAT_AFTER + duration(spec.config, "max.compaction.lag.ms")
            assert duration(spec.config, "delete.retention.ms") == timedelta(days=7)
        assert lifetime < names.ERASURE_DEADLINE, spec.name
        # Kafka compares these times with the timestamps of records.
        assert spec.config["message.timestamp.type"] == "LogAppendTime", spec.name


def test_acls_of_names_with_spaces_and_quotes_are_one_argument_each_in_a_shell() -> None:
    acl = Acl("group", "it's a group", ["Read"], prefixed=True)
    arguments = shlex.split(acl.command("User:CN=crm,O=Old Mill", "kafka:9092"))
    assert arguments == [
        "kafka-acls.sh", "--bootstrap-server", "kafka:9092", "--add", "--allow-principal", "User:CN=crm,O=Old Mill",
        "--operation", "Read", "--group", "it's a group", "--resource-pattern-type", "prefixed",
    ]  # fmt: skip
