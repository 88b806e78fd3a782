"""Connections to PostgreSQL by a URL, as the service makes them."""

import sqlalchemy as sa
from pydantic import SecretStr

from storage import database
from storage.settings import DatabaseSettings


async def connect_once(url: str) -> None:
    """Connect and execute a statement. Raises ConnectionFailed."""
    engine = database.connect(DatabaseSettings(url=SecretStr(url)), connections=1)
    try:
        async with engine.connect() as conn:
            await conn.execute(sa.text("select 1"))
    finally:
        await engine.dispose()
