"""Patches of Faust and of mode, which runs Faust's services. `agents.engine.app` applies them.

| patch | why |
| --- | --- |
| `_execute_noticed` | a task of Faust's that is cancelled by mistake ends unnoticed, for example the one that commits |
| `_Fetcher` | the same for the task that hands messages over |
| `_ConsumerThread` | Faust has no setting for `isolation_level` and `fetch_max_wait_ms` |
| `_Consumer.wait_first` | Faust creates four tasks for each message, which takes half of its time |
| `_Consumer.verify_event_path` | Faust reads a position that aiokafka may not have yet, and the worker ends |
| `_Consumer._to_message` | Faust drops all messages whose offsets begin again below those that were read |
| `_Consumer._new_offset`, `_add_gap` | Faust never commits a partition whose first offsets have no message |
| `NoMonitor` | Faust takes its own metrics several times for each message |

`tests/unit/test_patches.py` fails once a library no longer needs a patch.
"""

import asyncio
from collections.abc import Awaitable
from typing import Any

import faust
import structlog
from faust.transport.consumer import Fetcher
from faust.transport.drivers import aiokafka
from faust.types import TP
from mode import Service

from topics.patches import require_versions
from topics.supervision import TaskEnded

log = structlog.get_logger(__name__)

PATCHED = {"faust-streaming": "0.15.3", "mode-streaming": "0.7.1"}
"""The version of each library that the patches were written for."""


def apply() -> None:
    """For all apps of this process. Safe to call again. Raises WrongVersion."""
    require_versions(PATCHED)
    Service._execute_task = _execute_noticed  # type: ignore[method-assign, assignment]


class NoMonitor(faust.Monitor):
    """Our own metrics say what these would; they were taken several times for each message."""

    def on_message_in(self, *_: Any) -> None: ...

    def on_message_out(self, *_: Any) -> None: ...

    def on_stream_event_in(self, *_: Any) -> None: ...

    def on_stream_event_out(self, *_: Any) -> None: ...


_execute_task = Service._execute_task
"""Mode's own."""


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


class Transport(aiokafka.Transport):
    Consumer = _Consumer
    Fetcher = _Fetcher
