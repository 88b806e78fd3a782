"""Detects floods of messages that become dead letters: unreadable ones, and those for which a bug was met. Only their
partition pauses, and the worker goes on. Everything stays in Kafka during the pause, so the sender, or a bad
deployment, can be corrected before all messages have become dead letters."""

from collections import Counter
from typing import NamedTuple

FLOOD = 200
"""Number of such messages that are a flood, if they are among `WINDOW` messages of a partition."""
WINDOW = 1_000
FIRST_PAUSE = 1.0
"""Seconds. Each further flood doubles the pause, up to `LONGEST_PAUSE`."""
LONGEST_PAUSE = 15.0


class Flood(NamedTuple):
    """`reasons` has the number of dead letters by their code, `pause` is in seconds."""

    reasons: dict[str, int]
    messages: int
    pause: float


class FloodDetector:
    """Counts the messages of one partition that become dead letters."""

    def __init__(self) -> None:
        self._reasons: Counter[str] = Counter()
        self._messages = 0
        self._next_pause = FIRST_PAUSE

    def note(self, reason: str | None) -> None:
        """Count a message. `reason` is why it becomes a dead letter, None if it does not."""
        self._messages += 1
        if reason is not None:
            self._reasons[reason] += 1

    def detect(self) -> Flood | None:
        """The flood since the last one, if there is one. The count begins again after a flood and after a window."""
        dead = self._reasons.total()
        if dead < FLOOD and self._messages < WINDOW:
            return None
        is_flood = dead >= FLOOD and dead * WINDOW >= FLOOD * self._messages
        flood = Flood(dict(self._reasons.most_common()), self._messages, self._next_pause) if is_flood else None
        self._next_pause = min(2 * self._next_pause, LONGEST_PAUSE) if is_flood else FIRST_PAUSE
        self._reasons.clear()
        self._messages = 0
        return flood
