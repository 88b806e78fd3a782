"""Changes that wait in the outbox."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import sqlalchemy as sa

from tests.support.oracle import outbox_empty
from tests.support.stack import Stack, eventually


@asynccontextmanager
async def publisher_locked(stack: Stack, topic: str) -> AsyncIterator[None]:
    """A session of the test has the publisher's lock. No worker publishes changes of the topic before the context
    ends."""
    async with stack.engine.connect() as conn:
        await conn.execute(sa.text("select pg_advisory_lock(hashtextextended(:topic, 0))"), {"topic": topic})
        try:
            yield
        finally:
            await conn.execute(sa.text("select pg_advisory_unlock_all()"))


@asynccontextmanager
async def waiting_changes(stack: Stack, topic: str, count: int = 3) -> AsyncIterator[None]:
    """Insert changes of a topic, one minute old. No worker publishes them before the context ends. The outbox has no
    others at first."""
    await eventually("an empty outbox", lambda: outbox_empty(stack))
    async with publisher_locked(stack, topic):
        try:
            async with stack.engine.begin() as conn:
                await conn.execute(
                    sa.text(
                        "insert into outbox (topic, key, partition_key, change_id, change_type, created_at)"
                        " select :topic, 'test', 'test', 'test', 'visit.deleted', now() - interval '1 minute'"
                        " from generate_series(1, :count)"
                    ),
                    {"topic": topic, "count": count},
                )
                # PostgreSQL's estimate of the rows would else be seconds old.
                await conn.execute(sa.text("select pg_stat_force_next_flush()"))
            yield
        finally:
            async with stack.engine.begin() as conn:
                await conn.execute(sa.text("delete from outbox where change_id = 'test'"))
