"""Detects work that waits and does not move."""

from collections.abc import Hashable, Mapping


class Progress:
    """Remembers since when each waiting part has not moved. Times are seconds of a monotonic clock."""

    def __init__(self, limit: float) -> None:
        self._limit = limit
        self._positions: dict[str, tuple[Hashable, float]] = {}
        """By part: its position, and since when it has it."""

    def update(self, waiting: Mapping[str, Hashable], now: float) -> list[str]:
        """`waiting` has the position of each part that waits at `now`, which changes when the part moves. Returns the
        parts that have not moved for longer than the limit."""
        self._positions = {part: self._since(part, position, now) for part, position in waiting.items()}
        return [part for part, (_, since) in self._positions.items() if now - since > self._limit]

    def reset(self) -> None:
        """Start counting again, after a known fault explained that nothing moved."""
        self._positions.clear()

    def _since(self, part: str, position: Hashable, now: float) -> tuple[Hashable, float]:
        former = self._positions.get(part)
        return former if former is not None and former[0] == position else (position, now)
