"""TLS files may be missing for a moment while somebody renews them."""

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from agents.engine.retry import is_retryable
from topics.kafka import DeliveryError, FencedProducer, Outgoing, Producer, tail
from topics.observer import observing
from topics.replies import ReplyProducer
from topics.settings import KafkaSettings
from topics.snapshot import records

MESSAGE = Outgoing("t", b"v", b"k", [])


def _settings(cafile: Path) -> KafkaSettings:
    return KafkaSettings(bootstrap="127.0.0.1:1", security_protocol="SSL", ssl_cafile=str(cafile))


@pytest.fixture(params=["missing", "half-written"])
def settings(tmp_path: Path, request: pytest.FixtureRequest) -> KafkaSettings:
    file = tmp_path / "ca.pem"
    if request.param == "half-written":
        file.write_text("-----BEGIN CERTIFICATE-----\nMIID")
    return _settings(file)


SENDERS: list[Callable[[KafkaSettings], Awaitable[object]]] = [
    lambda settings: Producer(settings).send([MESSAGE]),
    lambda settings: Producer(settings).partitions("t"),
    lambda settings: FencedProducer(settings, "id").take_over(),
    lambda settings: ReplyProducer(settings).send([MESSAGE]),
]


@pytest.mark.parametrize("send", SENDERS, ids=["send", "partitions", "take_over", "reply"])
async def test_a_producer_that_cannot_read_a_tls_file_has_not_delivered(
    settings: KafkaSettings, send: Callable[[KafkaSettings], Awaitable[object]]
) -> None:
    with pytest.raises(DeliveryError, match="VISITOR_KAFKA_SSL_CAFILE"):
        await send(settings)


async def _observe(settings: KafkaSettings) -> None:
    async with observing(settings):
        pass


READERS: list[Callable[[KafkaSettings], Awaitable[object]]] = [
    lambda settings: tail(settings, "t", 0),
    lambda settings: anext(records(settings, "t")),
    _observe,
]


@pytest.mark.parametrize("read", READERS, ids=["tail", "records", "observer"])
async def test_a_consumer_that_cannot_read_a_tls_file_is_worth_another_attempt(
    settings: KafkaSettings, read: Callable[[KafkaSettings], Awaitable[object]]
) -> None:
    with pytest.raises(OSError, match="VISITOR_KAFKA_SSL_CAFILE") as raised:
        await read(settings)
    assert is_retryable(raised.value)
