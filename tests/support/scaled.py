"""A worker for which a day has `DAY` seconds: `python -m tests.support.scaled worker`. It repeats tombstones soon."""

from datetime import timedelta

from agents.engine import engine, tombstones
from runtime import cli

DAY = 1.2


def scaled(duration: timedelta) -> timedelta:
    return duration / timedelta(days=1) * timedelta(seconds=DAY)


if __name__ == "__main__":
    tombstones.REPEAT_AFTER = scaled(tombstones.REPEAT_AFTER)
    engine.PRUNE_INTERVAL = 0.2
    cli.main()
