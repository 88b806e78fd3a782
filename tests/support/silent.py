"""A worker that never publishes the changes of one topic: `python -m tests.support.silent worker`. The probes of
`chaos` must notice."""

from collections.abc import Iterable

from agents.engine.publisher import Publisher
from runtime import cli

TOPIC = "visitor.parking.changes.vehicle"

_wake = Publisher.wake


def _wake_others(publisher: Publisher, topics: Iterable[str]) -> None:
    _wake(publisher, (topic for topic in topics if topic != TOPIC))


if __name__ == "__main__":
    Publisher.wake = _wake_others  # type: ignore[assignment]
    cli.main()
