"""The Faust app: one agent a topic, which hands events to lanes and does nothing else.

What Faust 0.15.3 does that shapes this (read in its source):
- `take()` loses events when anything raises, and `events()` without `noack()` acknowledges what raised: hence lanes.
- Acknowledging a later message commits over earlier ones: hence strictly in order for each partition, and only for
  messages of the present assignment, since after a rebalance the partition is read again from its committed offset.
- What is not acknowledged is not delivered again until the process restarts: hence retries in place.
- A worker without partitions leaves the group after `broker_max_poll_interval` for good: hence days.
"""

import ssl
from collections.abc import Awaitable, Callable, Sequence
from typing import Any
from urllib.parse import quote

import faust
from yarl import URL

from agents.engine.lanes import Event
from topics.kafka import KafkaSettings

REBALANCE_TIMEOUT = 60.0
"""Seconds in which all workers give up their partitions; a begun batch ends well within (see storage.database)."""

_DAYS = 30 * 24 * 3600.0


def create(
    kafka: KafkaSettings,
    group: str,
    session: float,
    topics: Sequence[str],
    receive: Callable[[Event], Awaitable[None]],
) -> Any:
    """An app that is not started. A worker that is silent for `session` seconds loses its partitions. `receive` must
    not raise."""
    app = faust.App(
        quote(group, safe=""),
        broker=[URL(f"kafka://{server}") for server in kafka.bootstrap.split(",")],
        broker_credentials=_credentials(kafka),
        broker_max_poll_interval=_DAYS,
        broker_session_timeout=session,
        broker_heartbeat_interval=session / 4,
        broker_request_timeout=30.0,
        broker_rebalance_timeout=REBALANCE_TIMEOUT,
        broker_commit_interval=1.0,
        consumer_auto_offset_reset="earliest",
        consumer_max_fetch_size=4 * 2**20,
        stream_buffer_maxsize=1_000,
        stream_wait_empty=False,
        store="memory://",
        table_standby_replicas=0,
        topic_allow_declare=False,
        topic_disable_leader=True,
        value_serializer="raw",
        key_serializer="raw",
        web_enabled=False,
    )
    for topic in topics:
        _agent(app, topic, receive)
    app.finalize()
    return app


def _agent(app: Any, topic: str, receive: Callable[[Event], Awaitable[None]]) -> None:
    async def hand_over(stream: Any) -> None:
        async for event in stream.noack().events():
            await receive(event)

    channel = app.topic(topic, key_serializer="raw", value_serializer="raw", value_type=bytes)
    app.agent(channel, name=topic)(hand_over)


def acknowledge_in(app: Any) -> Callable[[Event], None]:
    """Acknowledge an event, unless its partition was given up since."""

    def acknowledge(event: Any) -> None:
        if event.message.generation_id == app.consumer_generation_id:
            event.ack()

    return acknowledge


def _credentials(kafka: KafkaSettings) -> Any:
    context: ssl.SSLContext | None = kafka.ssl_context()
    if kafka.security_protocol.startswith("SASL"):
        password = kafka.sasl_password.get_secret_value() if kafka.sasl_password else None
        return faust.SASLCredentials(
            username=kafka.sasl_username, password=password, mechanism=kafka.sasl_mechanism, ssl_context=context
        )
    return faust.SSLCredentials(context) if context else None
