"""What a check of `visitor doctor` finds."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "warning", "failed"]
LISTED = 3
"""How many names a message lists."""


@dataclass(frozen=True)
class Finding:
    """`message` says what is, `advice` what to do; it is empty if all is well."""

    state: State
    message: str
    advice: str = ""


def ok(message: str) -> Finding:
    return Finding("ok", message)


def warning(message: str, advice: str) -> Finding:
    return Finding("warning", message, advice)


def failed(message: str, advice: str) -> Finding:
    return Finding("failed", message, advice)


def listed(names: Collection[str]) -> str:
    """The first names, and how many there are beside them."""
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(sorted(names)[:LISTED]) + more
