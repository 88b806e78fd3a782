"""A worker that skips the lookup of answered requests, so it applies a repeated request again: `python -m
tests.support.forgetful worker`. The oracle of `chaos` must notice."""

from collections.abc import Sequence
from datetime import datetime, timedelta

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from runtime import cli
from storage import inbox, outbox

_look_up, _insert = inbox.look_up, inbox.insert
_DELETE = sa.delete(inbox.INBOX).where(
    *(inbox.INBOX.c[name] == sa.bindparam(name) for name in inbox.RequestKey._fields)
)


async def _find_nothing(
    conn: AsyncConnection, keys: Sequence[inbox.RequestKey], lock_timeout: timedelta
) -> tuple[datetime, dict[inbox.RequestKey, inbox.Entry]]:
    now, _ = await _look_up(conn, keys, lock_timeout)
    return now, {}


async def _replace(
    conn: AsyncConnection, entries: Sequence[inbox.Entry], changes: Sequence[outbox.Entry], now: datetime
) -> None:
    await conn.execute(_DELETE, [entry.key._asdict() for entry in entries])
    await _insert(conn, entries, changes, now)


if __name__ == "__main__":
    inbox.look_up, inbox.insert = _find_nothing, _replace
    cli.main()
