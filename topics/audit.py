"""The audit log: one JSON line for each access, with who, what, whose data, the result and the time. It has no personal
data beyond ids. `runtime.logs` writes it to a file or to standard output, by the logger `visitor.audit`."""

import logging
from collections.abc import Iterable
from datetime import UTC, datetime
from uuid import UUID

import orjson

LOGGER = logging.getLogger("visitor.audit")


def is_enabled() -> bool:
    return LOGGER.isEnabledFor(logging.INFO)


def write(*, caller: str | None, operation: str, visitors: Iterable[UUID], status: int, via: str) -> None:
    """`caller` is the ce_source: the API key, the subject of a token, or the sender of a message; or the operator who
    ran a command. `via` is `edge` for a call that the edge refused, `console` for what an operator looked at, `command`
    for a command, else the position of the message."""
    line = {
        "time": datetime.now(UTC),
        "caller": caller,
        "operation": operation,
        "visitors": sorted(map(str, visitors)),
        "status": status,
        "via": via,
    }
    LOGGER.info(orjson.dumps(line, option=orjson.OPT_UTC_Z).decode())
