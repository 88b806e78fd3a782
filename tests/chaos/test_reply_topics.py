"""Reply topics of other systems on a broker that checks ACLs and creates topics by itself."""

from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.protocol.admin import CreateAclsRequest

from tests.support.servers import Choice, Kafka, own_kafka
from tests.support.stack import eventually
from topics.kafka import Outgoing
from topics.replies import ReplyProducer
from topics.settings import KafkaSettings

BROKER = {
    "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
    "allow.everyone.if.no.acl.found": "true",
    "auto.create.topics.enable": "true",
}


@pytest.fixture(scope="module")
def broker(choice: Choice, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kafka]:
    with own_kafka(choice, tmp_path_factory.mktemp("broker"), BROKER) as kafka:
        yield kafka


@pytest_asyncio.fixture(loop_scope="session")
async def admin(broker: Kafka) -> AsyncIterator[AIOKafkaAdminClient]:
    client = AIOKafkaAdminClient(bootstrap_servers=broker.bootstrap)
    await client.start()
    yield client
    await client.close()


@pytest_asyncio.fixture(loop_scope="session")
async def producer(broker: Kafka) -> AsyncIterator[ReplyProducer]:
    reply_producer = ReplyProducer(KafkaSettings(bootstrap=broker.bootstrap))
    yield reply_producer
    await reply_producer.stop()


def _reply(topic: str, value: bytes = b"x", partition: int | None = None) -> Outgoing:
    return Outgoing(topic, value, b"k", [], partition=partition)


async def _create(admin: AIOKafkaAdminClient, *topics: NewTopic) -> None:
    """Create topics and wait until the broker has them, which is shortly after the controller has confirmed them."""
    await admin.create_topics(list(topics))

    async def exist() -> bool:
        return {topic.name for topic in topics} <= set(await admin.list_topics())

    await eventually("the new topics", exist)


async def _allow(admin: AIOKafkaAdminClient, topic: str, user: str, operation: int) -> None:
    """From then on, everybody else and everything else is forbidden on this topic."""
    request = CreateAclsRequest(2, topic, 3, f"User:{user}", "*", operation, 3)  # Topic, literal, …, Allow
    await admin._client.send(admin._client.get_random_node(), request)


async def test_a_missing_topic_is_not_created(admin: AIOKafkaAdminClient, producer: ReplyProducer) -> None:
    await _create(admin, NewTopic("there", 1, 1))
    replies = [_reply("missing"), _reply("there"), _reply("missing"), _reply("there", partition=1)]
    assert await producer.send(replies) == [False, True, False, False]
    assert "missing" not in await admin.list_topics()


async def test_a_deleted_topic_does_not_come_back(admin: AIOKafkaAdminClient, producer: ReplyProducer) -> None:
    await _create(admin, NewTopic("deleted", 1, 1))
    assert await producer.send([_reply("deleted")]) == [True]
    await admin.delete_topics(["deleted"])

    async def is_refused() -> bool:
        return await producer.send([_reply("deleted")]) == [False]

    # The broker drops a topic shortly after the controller has confirmed its deletion.
    await eventually("a refused reply", is_refused)
    assert "deleted" not in await admin.list_topics()


@pytest.mark.parametrize("operation", [3, 8], ids=["read", "describe"])
async def test_a_forbidden_topic_does_not_disturb_others(
    admin: AIOKafkaAdminClient, producer: ReplyProducer, operation: int
) -> None:
    forbidden, other = f"forbidden-{operation}", f"other-{operation}"
    await _create(admin, NewTopic(forbidden, 1, 1), NewTopic(other, 1, 1))
    await _allow(admin, forbidden, "somebody" if operation == 3 else "ANONYMOUS", operation)

    async def is_refused() -> bool:
        first, of_other, second = await producer.send([_reply(forbidden), _reply(other), _reply(forbidden)])
        assert of_other
        return not (first or second)

    # The broker applies an ACL shortly after the controller has confirmed it.
    await eventually("refused replies", is_refused)
    assert await producer.send([_reply(other)]) == [True]


async def test_a_reply_that_is_too_large_for_its_topic_is_dropped_alone(
    admin: AIOKafkaAdminClient, producer: ReplyProducer
) -> None:
    await _create(admin, NewTopic("small", 1, 1, topic_configs={"max.message.bytes": "100000"}))
    replies = [_reply("small"), _reply("small", b"x" * 200_000), _reply("small")]
    assert await producer.send(replies) == [True, False, True]
    assert await producer.send([_reply("small")]) == [True]
