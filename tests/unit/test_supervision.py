"""The end of a background task is never missed, and a stray CancelledError is a failure."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from topics.supervision import Interrupted, Supervisor, TaskEnded, interruptions_raised, run_together


async def _for_ever() -> None:
    await asyncio.Event().wait()


async def _returns() -> None:
    await asyncio.sleep(0)


async def _raises() -> None:
    raise ValueError("broken")


async def _interrupted() -> None:
    """As aiokafka does where it awaits a task that it has cancelled."""
    task = asyncio.create_task(_for_ever())
    task.cancel()
    await task


async def _cancels_itself() -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    await asyncio.sleep(0)


Work = Callable[[], Coroutine[Any, Any, None]]


@pytest.mark.parametrize(
    ("work", "error"),
    [(_returns, TaskEnded), (_raises, ValueError), (_interrupted, TaskEnded), (_cancels_itself, TaskEnded)],
)
async def test_each_end_of_a_task_is_reported_with_its_name(work: Work, error: type[Exception]) -> None:
    ended: list[tuple[str, BaseException]] = []
    reported = asyncio.Event()

    def failed(name: str, why: BaseException) -> None:
        ended.append((name, why))
        reported.set()

    supervisor = Supervisor(failed)
    supervisor.start("other", _for_ever())
    supervisor.start("this one", work())
    async with asyncio.timeout(5):
        await reported.wait()
    await supervisor.stop()
    assert [(name, type(why)) for name, why in ended] == [("this one", error)]


async def test_a_task_that_is_stopped_is_not_reported() -> None:
    ended: list[str] = []
    supervisor = Supervisor(lambda name, _: ended.append(name))
    supervisor.start("a", _for_ever())
    await asyncio.sleep(0)
    await supervisor.stop()
    assert ended == []


async def test_a_task_may_end_by_itself_once_it_is_to_stop() -> None:
    ended: list[str] = []
    done: list[int] = []

    async def work() -> None:
        await asyncio.sleep(0.05)
        done.append(1)

    supervisor = Supervisor(lambda name, _: ended.append(name))
    supervisor.start("a", work())
    await supervisor.stop(patience=5)
    assert (ended, done) == ([], [1])


async def test_a_task_that_swallows_a_cancellation_is_stopped_all_the_same() -> None:
    async def work() -> None:
        try:
            await _for_ever()
        except asyncio.CancelledError:
            await _for_ever()

    supervisor = Supervisor(lambda *_: None)
    supervisor.start("a", work())
    await asyncio.sleep(0)
    async with asyncio.timeout(5):
        await supervisor.stop()


@pytest.mark.parametrize(("work", "error"), [(_returns, TaskEnded), (_raises, ValueError), (_interrupted, TaskEnded)])
async def test_of_tasks_that_run_together_the_first_end_ends_all(work: Work, error: type[Exception]) -> None:
    cancelled = asyncio.Event()

    async def other() -> None:
        try:
            await _for_ever()
        finally:
            cancelled.set()

    async with asyncio.timeout(5):
        with pytest.raises(error):
            await run_together({"other": other(), "this one": work()})
    assert cancelled.is_set()


async def test_a_cancellation_that_nobody_requested_is_an_error() -> None:
    with pytest.raises(Interrupted), interruptions_raised():
        await _interrupted()


async def test_a_cancellation_that_was_requested_is_none() -> None:
    async def work() -> None:
        with interruptions_raised():
            await _for_ever()

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()


async def test_a_timeout_stays_a_timeout() -> None:
    async def work() -> None:
        async with asyncio.timeout(0.01):
            with interruptions_raised():
                await _for_ever()

    with pytest.raises(TimeoutError):
        await work()
