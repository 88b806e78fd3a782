"""Supervises background tasks, so that none of them ends unnoticed.

asyncio reports the exception of a task only when the task is collected, and its cancellation never. aiokafka 0.14.0
raises CancelledError although nobody has cancelled anything, for example when its consumer is stopped while the broker
is unavailable. `except Exception` does not catch it. This once ended the reply listener of an edge without any error.
"""

import asyncio
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NoReturn

Failed = Callable[[str, BaseException], None]
"""Called with the name of a task that has ended, and with the reason."""


class TaskEnded(Exception):
    """A task that runs until it is stopped has returned, or was cancelled by somebody else."""


class Interrupted(Exception):
    """A library raised CancelledError although nobody had cancelled the task."""


@contextmanager
def interruptions_raised() -> Iterator[None]:
    """Raises Interrupted instead of a CancelledError that nobody requested, so that callers handle it as a failure."""
    try:
        yield
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise Interrupted("a library raised CancelledError") from error


class Supervisor:
    """Background tasks that run until `stop`. `failed` is called once for each task that ends before, however it ends.
    After `let_end`, only an exception is a failure."""

    def __init__(self, failed: Failed) -> None:
        self._failed = failed
        self._tasks: set[asyncio.Task[Any]] = set()
        self.ending = False

    def start(self, name: str, work: Coroutine[Any, Any, object]) -> None:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def let_end(self) -> None:
        """From now on, a task may return or be cancelled."""
        self.ending = True

    async def stop(self, patience: float = 0) -> None:
        """Give the tasks `patience` seconds to end by themselves, then cancel them and wait for their end."""
        self.let_end()
        left = set(self._tasks)
        if left and patience:
            _, left = await asyncio.wait(left, timeout=patience)
        while left:
            for task in left:
                task.cancel()
            # Cancel again after a second, because aiokafka's `close` suppresses a cancellation while it runs.
            _, left = await asyncio.wait(left, timeout=1)

    def _ended(self, task: "asyncio.Task[Any]") -> None:
        self._tasks.discard(task)
        name = task.get_name()
        if not task.cancelled() and (error := task.exception()) is not None:
            self._failed(name, error)
        elif not self.ending:
            how = "was cancelled" if task.cancelled() else "returned"
            self._failed(name, TaskEnded(f"The task {name!r} {how}, but should run until the process stops."))


async def run_together(works: Mapping[str, Coroutine[Any, Any, object]]) -> NoReturn:
    """Run tasks, by name, that do not end by themselves. As soon as one ends, cancel the others and raise its
    exception, or TaskEnded if it has none."""
    failure: asyncio.Future[NoReturn] = asyncio.get_running_loop().create_future()

    def failed(_: str, error: BaseException) -> None:
        if not failure.done():
            failure.set_exception(error)

    supervisor = Supervisor(failed)
    for name, work in works.items():
        supervisor.start(name, work)
    try:
        await failure
    finally:
        await supervisor.stop()
