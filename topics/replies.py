"""Replies on topics of other systems. Such a topic may be missing, forbidden or broken, which must not hold up the
requests of everybody else."""

import asyncio
import time
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

import structlog
from aiokafka import AIOKafkaProducer, errors
from aiokafka.errors import KafkaError
from aiokafka.protocol.metadata import MetadataRequest

from topics.envelope import PREFIX
from topics.kafka import DeliveryError, Outgoing, abort, connect, describe, ended_tasks
from topics.settings import KafkaSettings

log = structlog.get_logger(__name__)

REPLY_SECONDS = 5.0
"""Seconds for sending to one reply topic. Kafka elects the leader of a partition in less, unless a broker crashed."""
RETRY_SECONDS = 10.0
"""Seconds for which a topic is left alone after a failure, so that it costs other requests no further time."""
FAILURES_LIMIT = 1_000
"""Topics whose failures are remembered. A pattern may allow any number of names."""

_FORBIDDEN = "the worker's user needs an ACL that allows Write on the topic"


def is_allowed(topic: str, patterns: Iterable[str]) -> bool:
    """Whether a request may name this topic for its reply. Topics of the service are never allowed."""
    return not topic.startswith(PREFIX) and any(fnmatchcase(topic, pattern) for pattern in patterns)


class _Unavailable(Exception):
    """No reply can be sent to the topic now."""


class ReplyProducer:
    """Sends replies with acks=all. It connects when the first reply is sent. A reply may arrive twice."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings
        self._client: AIOKafkaProducer | None = None
        self._connecting = asyncio.Lock()
        self._retry_at: dict[str, float] = {}
        """When to try each failed topic again, in seconds of the monotonic clock."""

    async def stop(self) -> None:
        """Drop what is not sent yet."""
        client, self._client = self._client, None
        if client is not None:
            await abort(client)

    async def send(self, replies: Sequence[Outgoing]) -> list[bool]:
        """Send the replies of each topic in order, and wait for the broker, at most `REPLY_SECONDS`. Returns for each
        reply whether the broker has it. Raises DeliveryError if there is no connection to Kafka."""
        if not replies:
            return []
        client = await self._connected()
        by_topic: dict[str, list[int]] = {}
        for index, reply in enumerate(replies):
            by_topic.setdefault(reply.topic, []).append(index)
        delivered = [False] * len(replies)
        groups = (self._send_to(topic, client, [replies[i] for i in group]) for topic, group in by_topic.items())
        for group, successes in zip(by_topic.values(), await asyncio.gather(*groups), strict=True):
            for index, success in zip(group, successes, strict=True):
                delivered[index] = success
        return delivered

    async def _connected(self) -> AIOKafkaProducer:
        async with self._connecting:
            if self._client is not None and ended_tasks(self._client):
                await self.stop()
            if self._client is None:
                try:
                    # Not idempotent: a sequence number that a topic refused would fail all later sends to it.
                    self._client = await connect(
                        self._settings,
                        enable_idempotence=False,
                        request_timeout_ms=int(REPLY_SECONDS * 1000),
                        # Below the limit of any topic, so that only a reply that is too large itself is refused.
                        max_batch_size=16 * 1024,
                    )
                except (KafkaError, TimeoutError, OSError) as error:
                    raise DeliveryError(f"no connection to {self._settings.bootstrap}: {error}") from error
            return self._client

    async def _send_to(self, topic: str, client: AIOKafkaProducer, replies: Sequence[Outgoing]) -> list[bool]:
        if not self._may_try(topic):
            return [False] * len(replies)
        try:
            async with asyncio.timeout(REPLY_SECONDS):
                successes = await _deliver(topic, client, replies)
        except _Unavailable as reason:
            self._give_up(topic, str(reason))
        except TimeoutError:
            self._give_up(topic, f"no confirmation within {REPLY_SECONDS:.0f} s")
        except (KafkaError, OSError) as error:
            self._give_up(topic, describe(error))
        else:
            self._retry_at.pop(topic, None)
            return successes
        return [False] * len(replies)

    def _may_try(self, topic: str) -> bool:
        """After a failure, only one batch tries the topic each `RETRY_SECONDS`."""
        retry_at = self._retry_at.get(topic)
        if retry_at is None:
            return True
        now = time.monotonic()
        if now < retry_at:
            return False
        self._retry_at[topic] = now + RETRY_SECONDS
        return True

    def _give_up(self, topic: str, reason: str) -> None:
        log.warning("reply_topic_unavailable", topic=topic, reason=reason)
        now = time.monotonic()
        if len(self._retry_at) >= FAILURES_LIMIT:
            self._retry_at = {name: retry_at for name, retry_at in self._retry_at.items() if retry_at > now}
        self._retry_at[topic] = now + RETRY_SECONDS


async def _deliver(topic: str, client: AIOKafkaProducer, replies: Sequence[Outgoing]) -> list[bool]:
    """Raises _Unavailable, KafkaError, OSError."""
    partitions = await _partitions(topic, client)
    sent: dict[int, asyncio.Future[object]] = {}
    try:
        for index, reply in enumerate(replies):
            if reply.partition is not None and reply.partition >= partitions:
                log.warning("no_such_reply_partition", topic=topic, partition=reply.partition)
                continue
            sent[index] = await client.send(
                topic, reply.value, key=reply.key, partition=reply.partition, headers=reply.headers
            )
        outcomes = await asyncio.gather(*sent.values(), return_exceptions=True)
    finally:
        # After a timeout, asyncio would log the exceptions of the confirmations that are still to come.
        for confirmation in sent.values():
            confirmation.cancel()
    confirmed = {index for index, outcome in zip(sent, outcomes, strict=True) if _is_confirmed(outcome, topic)}
    return [index in confirmed for index in range(len(replies))]


def _is_confirmed(outcome: object, topic: str) -> bool:
    """False if this reply is refused. Raises an exception that concerns the whole topic."""
    if isinstance(outcome, errors.MessageSizeTooLargeError):
        log.warning("reply_too_large", topic=topic)
        return False
    if isinstance(outcome, errors.TopicAuthorizationFailedError):
        raise _Unavailable(_FORBIDDEN)
    if isinstance(outcome, BaseException):
        raise outcome
    return True


async def _partitions(topic: str, client: AIOKafkaProducer) -> int:
    """How many partitions a topic has. aiokafka's own method waits for a missing topic until a timeout. Raises
    _Unavailable, KafkaError, OSError."""
    cached = client.client.cluster.partitions_for_topic(topic)
    if cached:
        return len(cached)
    node = client.client.get_random_node()
    response = await client.client.send(node, MetadataRequest([topic], allow_auto_topic_creation=False))
    code, _, _, partitions = response.topics[0]
    error = errors.for_code(code)
    if error is errors.UnknownTopicOrPartitionError:
        raise _Unavailable("there is no such topic, or the worker's user may not describe it")
    if error is errors.TopicAuthorizationFailedError:
        raise _Unavailable(_FORBIDDEN)
    if error is not errors.NoError:
        raise error(topic)
    return len(partitions)
