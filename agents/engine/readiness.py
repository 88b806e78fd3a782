"""Whether a worker is ready, and why not."""


class Readiness:
    """The reasons why a worker is not ready, by part. Without a reason, it is ready."""

    def __init__(self) -> None:
        self._reasons: dict[str, str] = {}

    def not_ready(self, part: str, reason: str) -> None:
        self._reasons[part] = reason

    def ready(self, part: str) -> None:
        self._reasons.pop(part, None)

    @property
    def reasons(self) -> dict[str, str]:
        return dict(self._reasons)
