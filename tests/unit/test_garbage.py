"""What fails leaves nothing in memory that only the cyclic garbage collector could free: it runs rarely."""

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator, Awaitable, Iterator
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest
from aiokafka.errors import KafkaError

from agents.engine import apply
from agents.engine.publisher import Publisher
from agents.engine.readiness import Readiness
from agents.operation import apply_each
from schemas.faults import NotFound
from storage.commits import Commits
from telemetry import garbage
from tests.support.stack import eventually
from topics import kafka
from topics.kafka import DeliveryError


class _Message:
    """What the work is about."""


@pytest.fixture(autouse=True)
def no_collections() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


async def _fails(work: Awaitable[object], kind: type[Exception]) -> None:
    """`pytest.raises` would keep the error."""
    try:
        await work
    except kind:
        pass
    else:
        raise AssertionError(f"no {kind.__name__}")
    await asyncio.sleep(0)  # The event loop forgets the future that was awaited.


def _not_there() -> NoReturn:
    try:
        raise KeyError("absent")
    except KeyError:
        raise NotFound("not_found", "There is none.") from None


async def test_a_refused_request_is_freed() -> None:
    async def refuse(*_: Any) -> NoReturn:
        _not_there()

    async def call() -> Any:
        message = _Message()
        incoming: Any = SimpleNamespace(
            operation=SimpleNamespace(batch_handler=None, handler=refuse),
            request=message,
            headers=SimpleNamespace(if_match=None),
        )
        tx: Any = SimpleNamespace(wrote=False)
        (fault,) = await apply._call([incoming], [tx], SimpleNamespace())  # type: ignore[arg-type]
        assert isinstance(fault, NotFound)
        return weakref.ref(message)

    assert (await call())() is None


async def test_a_request_that_is_refused_beside_others_is_freed() -> None:
    async def call() -> Any:
        message = _Message()
        calls: Any = [(None, message)]
        (fault,) = await apply_each(calls, lambda *_: _not_there(), lambda _: _never())
        assert isinstance(fault, NotFound)
        return weakref.ref(message)

    assert (await call())() is None


async def _never() -> NoReturn:
    raise AssertionError


class _FailingPublisher(Publisher):
    async def _attempt(self, topic: str) -> NoReturn:
        self.message = weakref.ref(changes := _Message())
        raise DeliveryError(f"no broker for {type(changes).__name__}")


async def test_changes_that_could_not_be_published_are_freed() -> None:
    publisher = _FailingPublisher({"t": None}, None, Readiness())  # type: ignore[dict-item, arg-type]
    await _fails(publisher._publish_oldest("t"), DeliveryError)
    assert publisher.message() is None


class _FailingClient:
    async def send(self, *_: Any, **__: Any) -> "asyncio.Future[Any]":
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        future.set_exception(KafkaError("no broker"))
        return future


async def test_messages_that_could_not_be_sent_are_freed() -> None:
    class _Headers(list[Any]):
        """Can be referred to weakly."""

    async def send() -> Any:
        headers = _Headers()
        client: Any = _FailingClient()
        await _fails(kafka._send_group(client, "t", None, [kafka.Outgoing("t", b"x", None, headers)]), KafkaError)
        return weakref.ref(headers)

    assert (await send())() is None


async def test_the_batch_of_a_failed_commit_is_freed() -> None:
    class _Connection:
        async def get_raw_connection(self) -> Any:
            return SimpleNamespace(driver_connection=None)

        async def commit(self) -> NoReturn:
            raise OSError("no server")

    async def commit() -> Any:
        connection: Any = _Connection()
        await _fails(Commits().commit(connection), OSError)
        return weakref.ref(connection)

    assert (await commit())() is None


@pytest.fixture
async def collecting(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    monkeypatch.setattr(garbage, "INTERVAL", 0.01)
    task = asyncio.create_task(garbage.collect_regularly())
    yield
    task.cancel()


@pytest.mark.usefixtures("collecting")
@pytest.mark.parametrize("survived", [0, 2], ids=["a new one", "an old one"])
async def test_other_cycles_are_freed_soon(survived: int) -> None:
    message = _Message()
    message.itself = message  # type: ignore[attr-defined]
    for _ in range(survived):
        gc.collect(1)
    reference = weakref.ref(message)
    del message

    async def is_freed() -> bool:
        return reference() is None

    await eventually("a collection", is_freed)


def test_an_error_without_frames_keeps_its_causes() -> None:
    with pytest.raises(NotFound) as refused:
        _not_there()
    error = garbage.without_frames(refused.value)
    assert error.__traceback__ is None
    assert isinstance(error.__context__, KeyError)
    assert error.__context__.__traceback__ is None
