"""Whether what waits also moves."""

from collections.abc import Mapping


class Progress:
    """Remembers since when each thing that waits has not moved; times are seconds of any clock that only grows."""

    def __init__(self, limit: float) -> None:
        self._limit = limit
        self._since: dict[str, tuple[int, float]] = {}

    def note(self, waiting: Mapping[str, int], now: float) -> list[str]:
        """`waiting` has what waits now, with how far it is. What has waited longer than the limit without moving."""
        self._since = {what: self._standing(what, position, now) for what, position in waiting.items()}
        return [what for what, (_, since) in self._since.items() if now - since > self._limit]

    def excuse(self) -> None:
        """Something known was in the way: count from anew."""
        self._since.clear()

    def _standing(self, what: str, position: int, now: float) -> tuple[int, float]:
        known = self._since.get(what)
        return known if known is not None and known[0] == position else (position, now)
