"""The Faust app: one agent a topic, which hands events to lanes and does nothing else.

What Faust 0.15.3 does that shapes this (read in its source):
- `take()` loses events when anything raises, and `events()` without `noack()` acknowledges what raised: hence lanes.
- Acknowledging a later message commits over earlier ones: hence strictly in order for each partition, and only for
  messages of the present assignment, since after a rebalance the partition is read again from its committed offset.
- What is not acknowledged is not delivered again until the process restarts: hence retries in place.
- A worker without partitions leaves the group after `broker_max_poll_interval` for good: hence days.
"""

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Sequence
from typing import Any
from urllib.parse import quote

import faust
import structlog
from faust.transport.consumer import Fetcher
from faust.transport.drivers import aiokafka
from faust.types import TP
from mode import Service
from yarl import URL

from agents.engine.lanes import Event, TopicPartition
from topics.kafka import KafkaSettings, ended_tasks
from topics.supervision import TaskEnded

log = structlog.get_logger(__name__)

REBALANCE_TIMEOUT = 60.0
"""Seconds in which all workers give up their partitions; a begun batch ends well within (see storage.database)."""

_DAYS = 30 * 24 * 3600.0


def create(
    kafka: KafkaSettings,
    group: str,
    session: float,
    topics: Sequence[str],
    receive: Callable[[Event], None],
) -> Any:
    """An app that is not started. A worker that is silent for `session` seconds loses its partitions. `receive` must
    neither raise nor take long."""
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
        # Bytes fetched of a partition at once. All that was fetched is handed over before anything newer, of whatever
        # topic: with more of it, reads and small topics would wait behind a gateway's backlog.
        consumer_max_fetch_size=256 * 1024,
        stream_buffer_maxsize=1_000,
        stream_wait_empty=False,
        store="memory://",
        table_standby_replicas=0,
        topic_allow_declare=False,
        topic_disable_leader=True,
        value_serializer="raw",
        key_serializer="raw",
        web_enabled=False,
        Monitor=_NoMonitor,
    )
    app.transport = _Transport(app.conf.broker_consumer, app)
    # There are no tables, and the working directory need not be ours to write to.
    app._create_directories = lambda: None  # type: ignore[method-assign]
    for topic in topics:
        _agent(app, topic, receive)
    app.finalize()
    return app


class _NoMonitor(faust.Monitor):
    """Our own metrics say what these would; they were taken several times for each message."""

    def on_message_in(self, *_: Any) -> None: ...

    def on_message_out(self, *_: Any) -> None: ...

    def on_stream_event_in(self, *_: Any) -> None: ...

    def on_stream_event_out(self, *_: Any) -> None: ...


_execute_task = Service._execute_task


async def _execute_noticed(service: Any, work: Awaitable[Any]) -> None:
    """Run a task of a service. Where mode 0.7.1 only logs that one was cancelled, be it by the service or by a library
    that raised CancelledError, the service crashes unless it is stopping: Faust would go on without its commits."""

    async def noticed() -> None:
        try:
            await work
        except asyncio.CancelledError as error:
            if service.should_stop:
                raise
            name = getattr(work, "__qualname__", service.shortlabel)
            raise TaskEnded(f"Faust's task {name} was cancelled, but should run until Faust stops.") from error

    await _execute_task(service, noticed())


Service._execute_task = _execute_noticed  # type: ignore[method-assign, assignment]


class _Fetcher(Fetcher):
    @Service.task
    async def _fetcher(self) -> None:
        """Hand over messages. Faust's own suppresses a CancelledError, and nothing would be read any more."""
        consumer: Any = self.app.consumer
        try:
            await consumer._drain_messages(self)
        finally:
            self.set_shutdown()


class _ConsumerThread(aiokafka.AIOKafkaConsumerThread):
    def _create_worker_consumer(self, transport: Any) -> Any:
        """With what Faust has no settings for."""
        consumer = super()._create_worker_consumer(transport)
        # While a fetch waits at the broker, none is sent for a partition that was held back meanwhile.
        consumer._fetch_max_wait_ms = 100
        # A producer that takes its messages back, by aborting its transaction, never sent them.
        consumer._isolation_level = "read_committed"
        return consumer


class _Consumer(aiokafka.Consumer):
    async def wait_first(self, *coros: Any, timeout: Any = None) -> Any:
        """Hand a message over. Faust makes four tasks for it, to give up where a rebalance begins meanwhile; that took
        half of its time, and with agents that wait for nothing a hand-over is done before anything can begin."""
        if timeout is not None or len(coros) != 2 or not self.flow_active:
            return await super().wait_first(*coros, timeout=timeout)
        hand_over, suspended = coros
        suspended.close()
        await hand_over
        # A turn for the agent to take it, or its queue is full soon, and a message costs more than before.
        await asyncio.sleep(0)
        return None

    def _new_consumer_thread(self) -> Any:
        return _ConsumerThread(self, loop=self.loop, beacon=self.beacon)

    def verify_event_path(self, now: float, tp: TP) -> None:
        """Nothing, since `Service` watches progress. Faust reads a position that aiokafka has not got while it looks
        for one, as after its records were deleted unread; the AssertionError ended the worker."""

    def _to_message(self, tp: TP, record: Any) -> Any:
        """The message of a record that was fetched. Where a broker has lost the end of a partition, offsets begin again
        below those that were read. Faust drops such messages without a word; what was sent twice, the inbox knows."""
        if record.offset < (self._read_offset[tp] or 0):
            log.warning("offsets_begin_again", topic=tp.topic, partition=tp.partition, offset=record.offset)
            for known in (self._read_offset, self._committed_offset, self._acked, self._acked_index):
                known.pop(tp, None)
        return super()._to_message(tp, record)

    async def _add_gap(self, tp: TP, offset_from: int, offset_to: int) -> None:
        """Nothing; see `_new_offset`."""

    def _new_offset(self, tp: TP) -> int | None:
        """The offset to commit: after what was acknowledged last, since lanes acknowledge in order. Faust looks for
        offsets in between without a message, and misses those after offset 0: a partition whose records were deleted
        or taken back there was never committed again."""
        acknowledged = self._acked[tp]
        if not acknowledged:
            return None
        offset: int = max(acknowledged) + 1
        acknowledged.clear()
        self._acked_index[tp].clear()
        return offset


class _Transport(aiokafka.Transport):
    Consumer = _Consumer
    Fetcher = _Fetcher


def _agent(app: Any, topic: str, receive: Callable[[Event], None]) -> None:
    async def hand_over(stream: Any) -> None:
        async for event in stream.noack().events():
            receive(event)

    channel = app.topic(topic, key_serializer="raw", value_serializer="raw", value_type=bytes)
    app.agent(channel, name=topic)(hand_over)


class FaustSource:
    """The lanes' view of an app."""

    def __init__(self, app: Any) -> None:
        self._app = app

    def acknowledge(self, event: Event) -> None:
        """Unless its partition was given up since."""
        if event.message.generation_id == self._app.consumer_generation_id:
            event.ack()

    def pause(self, place: TopicPartition) -> None:
        # Not pause_partitions: that drops what was fetched and is not handed over yet.
        self._app.consumer.on_buffer_full(TP(*place))

    def resume(self, place: TopicPartition) -> None:
        self._app.consumer.on_buffer_drop(TP(*place))


def fetched(app: Any, place: TopicPartition) -> int | None:
    """The next offset that aiokafka fetches of a partition; None while it has none. (Its `position` waits until it has
    one, and with two of those waiting, Faust's consumer thread would do nothing else.)"""
    client = app.consumer._thread._consumer
    subscription = client and client._subscription.subscription
    state = subscription and subscription.assignment and subscription.assignment.state_value(TP(*place))
    return state._position if state else None


def ended_parts(app: Any) -> list[str]:
    """What works in the background of a running app's consumer and has ended; neither Faust nor aiokafka tells."""
    thread = app.consumer._thread
    client = thread._consumer
    if client is None or client._coordinator is None:
        return []
    ended = [f"aiokafka's {name}" for name in ended_tasks(client)]
    if not thread._thread.is_alive():
        ended.append("the consumer thread")
    coordinator = client._coordinator
    heartbeat = coordinator._heartbeat_task
    if heartbeat is not None and heartbeat.done() and not coordinator._rejoin_needed_fut.done():
        ended.append("aiokafka's heartbeat")
    # The coordinator waits until somebody takes the error; Faust does not.
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
