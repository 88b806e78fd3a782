"""The Faust app: one agent per topic, which puts events into lanes and does nothing else.

The behaviour of Faust 0.15.3 that shapes this module, from its source:
- `take()` loses events when anything raises, and `events()` without `noack()` acknowledges an event whose processing
  raised. This is why we use lanes.
- Acknowledging a message commits over earlier ones that are not acknowledged. This is why lanes acknowledge in order,
  and only messages of the current assignment: after a rebalance, the partition is read from its committed offset.
- A message that is not acknowledged is not delivered again until the process restarts. This is why a lane retries
  a batch itself.
- A worker without partitions leaves the group after `broker_max_poll_interval` and does not join it again. This is why
  the interval is 30 days.
"""

import os
import socket
import ssl
from collections.abc import Callable, Sequence
from typing import Any

import faust
import structlog
from faust.types import TP
from yarl import URL

from agents.engine import faust_patches
from agents.engine.lanes import Event, TopicPartition
from topics.kafka import ended_tasks
from topics.settings import METADATA_SECONDS, KafkaSettings

log = structlog.get_logger(__name__)

REBALANCE_TIMEOUT = 60.0
"""Seconds in which all workers give up their partitions. A batch ends well within them, see storage.database."""

_DAYS = 30 * 24 * 3600.0


def create(
    kafka: KafkaSettings,
    group: str,
    session: float,
    topics: Sequence[str],
    receive: Callable[[Event], None],
) -> Any:
    """Make an app without starting it. A worker that is silent for `session` seconds loses its partitions. `receive`
    must neither raise nor take long."""
    faust_patches.apply()
    app = faust.App(
        group,
        broker_client_id=f"visitor-worker-{socket.gethostname()}-{os.getpid()}",
        broker=[URL(f"kafka://{server}") for server in kafka.bootstrap.split(",")],
        broker_credentials=_credentials(kafka),
        broker_max_poll_interval=_DAYS,
        broker_session_timeout=session,
        broker_heartbeat_interval=session / 4,
        broker_request_timeout=30.0,
        broker_rebalance_timeout=REBALANCE_TIMEOUT,
        broker_commit_interval=1.0,
        consumer_auto_offset_reset="earliest",
        consumer_metadata_max_age_ms=int(METADATA_SECONDS * 1000),
        # Bytes per partition and fetch. Faust delivers all fetched records before it fetches again. Large fetches of
        # one topic would delay small topics.
        consumer_max_fetch_size=256 * 1024,
        # A batch of a few kilobytes may hold a million records, which would all be objects at once.
        broker_max_poll_records=1_000,
        stream_buffer_maxsize=1_000,
        stream_wait_empty=False,
        store="memory://",
        table_standby_replicas=0,
        topic_allow_declare=False,
        topic_disable_leader=True,
        value_serializer="raw",
        key_serializer="raw",
        web_enabled=False,
        Monitor=faust_patches.NoMonitor,
    )
    app.transport = faust_patches.Transport(app.conf.broker_consumer, app)
    # There are no tables, and the working directory may be read-only.
    app._create_directories = lambda: None  # type: ignore[method-assign]
    for topic in topics:
        _agent(app, topic, receive)
    app.finalize()
    return app


def _agent(app: Any, topic: str, receive: Callable[[Event], None]) -> None:
    async def hand_over(stream: Any) -> None:
        # The channel below the stream has all events of a hand-over at once. The stream takes a turn of the event loop
        # for each.
        async for event in stream.channel:
            if _is_current(app, event):
                receive(event)

    channel = app.topic(topic, key_serializer="raw", value_serializer="raw", value_type=bytes)
    app.agent(channel, name=topic)(hand_over)


def _is_current(app: Any, event: Event) -> bool:
    """True if the event was read in the current generation, see `faust_patches`."""
    message = event.message
    current = app.consumer.generation_of(message.tp)
    return bool(current != faust_patches.UNASSIGNED and message.generation_id == current)


class FaustSource:
    """An app as the source of lanes."""

    def __init__(self, app: Any) -> None:
        self._app = app

    @property
    def is_delivering(self) -> bool:
        return bool(self._app.consumer.is_delivering)

    def acknowledge(self, event: Event) -> None:
        """Acknowledge an event and all earlier ones, unless the partition was revoked since it arrived. Faust commits
        the highest acknowledged offset, see `faust_patches`."""
        if _is_current(self._app, event):
            event.ack()

    def pause(self, topic_partition: TopicPartition) -> None:
        # Not pause_partitions: that drops the events that were fetched and not delivered yet.
        self._app.consumer.on_buffer_full(TP(*topic_partition))

    def resume(self, topic_partition: TopicPartition) -> None:
        self._app.consumer.on_buffer_drop(TP(*topic_partition))


def fetched(app: Any, topic_partition: TopicPartition) -> int | None:
    """The next offset that aiokafka fetches of a partition; None if it has none."""
    position: int | None = app.consumer.position_of(TP(*topic_partition))
    return position


def retry_forbidden_group(app: Any) -> bool:
    """True if the user may not read the group of a running app. Then the app tries again to join it."""
    return bool(app.consumer.retry_forbidden_group())


def ended_parts(app: Any) -> list[str]:
    """The background parts of a running app's consumer that have ended. Neither Faust nor aiokafka reports them."""
    client = app.consumer._thread._consumer
    if client is None or client._coordinator is None:
        return []
    ended = [f"aiokafka's {name}" for name in ended_tasks(client)]
    coordinator = client._coordinator
    heartbeat = coordinator._heartbeat_task
    if heartbeat is not None and heartbeat.done() and not coordinator._rejoin_needed_fut.done():
        ended.append("aiokafka's heartbeat")
    # The coordinator keeps its error until somebody asks for it; Faust never does.
    if coordinator._pending_exception is not None:
        ended.append(f"aiokafka's group membership ({coordinator._pending_exception!r})")
    return ended


def _credentials(kafka: KafkaSettings) -> Any:
    context: ssl.SSLContext | None = kafka.ssl_context()
    if kafka.security_protocol.startswith("SASL"):
        password = kafka.sasl_password.get_secret_value() if kafka.sasl_password else None
        return faust.SASLCredentials(
            username=kafka.sasl_username, password=password, mechanism=kafka.sasl_mechanism, ssl_context=context
        )
    return faust.SSLCredentials(context) if context else None
