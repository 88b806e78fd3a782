"""Which rights of a Kafka user are missing."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import (
    GroupAuthorizationFailedError,
    GroupCoordinatorNotAvailableError,
    TransactionalIdAuthorizationFailed,
)
from aiokafka.protocol.admin import ApiVersionRequest
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.group import HeartbeatRequest
from aiokafka.protocol.types import Array, Boolean, Int16, Int32, Schema, String

from topics.acls import Acl, Operation
from topics.kafka import close_admin
from topics.settings import KafkaSettings

_BITS: dict[Operation, int] = {"Read": 3, "Write": 4, "Create": 5, "Describe": 8, "DescribeConfigs": 10}
"""The codes of Kafka's org.apache.kafka.common.acl.AclOperation."""
_TOPIC_UNKNOWN = 3
_FETCH = 1
"""The key of the API Fetch."""
_FETCH_OF_3_7 = 16
"""Its newest version in Kafka 3.7 (KIP-951). A broker does not tell its release."""


class _MetadataResponse(Response):  # type: ignore[misc]
    API_KEY = 3
    API_VERSION = 8
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "brokers",
            Array(
                ("node_id", Int32), ("host", String("utf-8")), ("port", Int32), ("rack", String("utf-8")),
            ),
        ),
        ("cluster_id", String("utf-8")),
        ("controller_id", Int32),
        (
            "topics",
            Array(
                ("error_code", Int16),
                ("topic", String("utf-8")),
                ("is_internal", Boolean),
                (
                    "partitions",
                    Array(
                        ("error_code", Int16),
                        ("partition", Int32),
                        ("leader", Int32),
                        ("leader_epoch", Int32),
                        ("replicas", Array(Int32)),
                        ("isr", Array(Int32)),
                        ("offline_replicas", Array(Int32)),
                    ),
                ),
                ("authorized_operations", Int32),
            ),
        ),
        ("cluster_authorized_operations", Int32),
    )  # fmt: skip


class _MetadataRequestStruct(RequestStruct):  # type: ignore[misc]
    API_KEY = 3
    API_VERSION = 8
    RESPONSE_TYPE = _MetadataResponse
    SCHEMA = Schema(
        ("topics", Array(String("utf-8"))),
        ("allow_auto_topic_creation", Boolean),
        ("include_cluster_authorized_operations", Boolean),
        ("include_topic_authorized_operations", Boolean),
    )


class _TopicRights(Request[_MetadataRequestStruct]):  # type: ignore[misc]
    """Metadata with the operations that the user may do on each topic (KIP-430). aiokafka 0.14.0 has older versions of
    the request only."""

    API_KEY = 3

    def __init__(self, topics: Sequence[str]) -> None:
        self._topics = list(topics)

    def build(self, request_struct_class: type[_MetadataRequestStruct]) -> _MetadataRequestStruct:
        return request_struct_class(self._topics, False, False, True)


class Rights:
    """Compares the rights of the user with ACLs. The methods raise KafkaError."""

    def __init__(self, admin: AIOKafkaAdminClient) -> None:
        self._admin = admin

    async def is_supported(self) -> bool:
        """False if the broker is older than Kafka 3.7."""
        response = await self._admin._send_request(ApiVersionRequest())
        newest = {key: newest for key, _, newest in response.api_versions}
        return bool(newest.get(_FETCH, 0) >= _FETCH_OF_3_7)

    async def missing(self, acls: Sequence[Acl], topics: Sequence[str], groups: Sequence[str]) -> list[str]:
        """What the user may not do although an ACL of the list allows it, for example `Write on the topic x`. `topics`
        and `groups` are all that an ACL with a prefix stands for; topics that do not exist are left out. Of a
        transactional id, only Describe can be tested without an effect."""
        missing: list[str] = []
        operations = await self._topic_operations(topics)
        for acl in acls:
            match acl.resource:
                case "topic":
                    for topic in filter(acl.covers, operations):
                        lacking = [each for each in acl.operations if not operations[topic] >> _BITS[each] & 1]
                        missing += [f"{operation} on the topic {topic}" for operation in lacking]
                case "group":
                    for group in filter(acl.covers, groups):
                        if not await self._may_use_group(group, acl.operations):
                            missing.append(f"{acl.operations[0]} on the group {group}")
                case "transactional-id":
                    for transactional_id in (f"{acl.name}{topic}" for topic in topics if ".changes." in topic):
                        if not await self._may_describe_transactional_id(transactional_id):
                            missing.append(f"Write on the transactional id {transactional_id}")
        return missing

    async def _topic_operations(self, topics: Sequence[str]) -> dict[str, int]:
        """The allowed operations of each topic that exists, as bits."""
        response = await self._admin._send_request(_TopicRights(topics))
        return {
            topic: max(0, allowed) if not code else 0
            for code, topic, _, _, allowed in response.topics
            if code != _TOPIC_UNKNOWN
        }

    async def _may_use_group(self, group: str, operations: Sequence[Operation]) -> bool:
        try:
            coordinator = await self._admin.find_coordinator(group)
        except GroupAuthorizationFailedError:
            return False
        except GroupCoordinatorNotAvailableError:
            return True  # The broker checks the right first. It has no coordinator before the first group.
        if "Read" not in operations:
            return True
        # A heartbeat of an unknown member changes nothing. The broker checks the right first.
        response: Any = await self._admin._send_request(HeartbeatRequest(group, -1, "visitor-doctor"), coordinator)
        return bool(response.error_code != GroupAuthorizationFailedError.errno)

    async def _may_describe_transactional_id(self, transactional_id: str) -> bool:
        try:
            await self._admin.find_coordinator(transactional_id, coordinator_type=1)
        except TransactionalIdAuthorizationFailed:
            return False
        except GroupCoordinatorNotAvailableError:
            return True  # The same, before the first transaction.
        return True


@asynccontextmanager
async def rights_of(settings: KafkaSettings) -> AsyncIterator[Rights]:
    """Raises KafkaError if no broker answers."""
    admin = AIOKafkaAdminClient(**settings.client())
    try:
        await admin.start()
        yield Rights(admin)
    finally:
        await close_admin(admin)
